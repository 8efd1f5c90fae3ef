"""Settings of a step: a frozen dataclass whose fields say what they mean, what they may be and what they decide.

Options of a command line, nodes of a config, schemas of the service and the tables of the docs are
made from such a class, so that a default, a range or a sentence of help is written once.

May import: errors.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from nds_plugin.errors import NDSError, did_you_mean, unknown_name

_KEY = "setting"
S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Setting:
    """What is known of one field of :class:`Settings`.

    Attributes:
        name, default: of the field.
        help: what it means, without a full stop.
        choices: what it may be; empty where a range says that.
        names: whether a list holds names, and not numbers.
        least, most: smallest and largest value, both allowed.
        above, below: bounds that are not allowed themselves.
        none: what a config and a command line, which have no None, write for it; None where None is
            not a value of the setting.
        decides: whether what the step makes depends on it; not so for what costs time or memory alone.
        config: key below the node of the step in a config, by default the name in capitals; a leading
            dot means a key of ``NDS`` itself, which steps may share; empty for none.
    """

    name: str = ""
    default: Any = None
    help: str = ""
    choices: tuple[str, ...] = ()
    names: bool = False
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    none: Any = None
    decides: bool = True
    config: str | None = None

    @property
    def kind(self) -> type:
        """The type of its values, None aside."""
        return type(self.default if self.default is not None else self.none)

    @property
    def key(self) -> str:
        """Its key in a config."""
        return self.name.upper() if self.config is None else self.config

    @property
    def flag(self) -> str:
        """Its option on a command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def range(self) -> str:
        """What it may be, in words, for an error or a page of docs."""
        if self.choices:
            return ", ".join(self.choices)
        parts = [
            *([f"{self.least:g} or more"] if self.least is not None and self.most is None else []),
            *([f"{self.least} to {self.most}"] if self.least is not None and self.most is not None else []),
            *([f"above {self.above:g}"] if self.above is not None else []),
            *([f"below {self.below:g}"] if self.below is not None else []),
            *([f"{self.most:g} or less"] if self.most is not None and self.least is None else []),
        ]
        return " and ".join(parts)

    def check(self, value: Any, called: str) -> None:
        """Refuse a value of another type or out of range.

        Args:
            value: the value.
            called: how an error names the setting: as whoever gave the value knows it.

        Raises:
            NDSError: it is not what the setting may be.
        """
        if value is None and self.none is not None:
            return
        if self.choices:
            if value not in self.choices:
                raise unknown_name(called, value, self.choices)
            return
        if not self._has_type(value) or not self._in_range(value):
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
            a_list = "a list of names" if self.names else "a list"
            expected = self.range if self._has_type(value) and self.range else words.get(self.kind, a_list)
            of = " of " if self.least is not None else " "
            also = of + self.range if expected == words.get(self.kind) and self.range else ""
            raise NDSError(f"{called} must be {expected}{also}, got {value!r}.")

    def _has_type(self, value: Any) -> bool:
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is int:
            return isinstance(value, numbers.Integral)
        if self.kind is float:
            return isinstance(value, numbers.Real) and math.isfinite(value)
        if self.names:
            return isinstance(value, tuple) and all(isinstance(name, str) for name in value)
        return isinstance(value, self.kind)

    def _in_range(self, value: Any) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, help: str, **facts: Any) -> Any:
    """A field of :class:`Settings`; ``facts`` are those of :class:`Setting`."""
    return field(default=default, metadata={_KEY: Setting(default=default, help=help, **facts)})


class Settings:
    """Base of the settings of a step; subclasses are frozen dataclasses of :func:`setting` fields."""

    what: ClassVar[str] = "setting"  # the step, as errors call it

    def __post_init__(self) -> None:
        for item in settings_of(type(self)):
            item.check(getattr(self, item.name), f"{self.what} {item.name}")

    def identity(self) -> dict[str, Any]:
        """The settings on which what the step makes depends, by name."""
        return {item.name: getattr(self, item.name) for item in settings_of(type(self)) if item.decides}


def settings_of(cls: type[Settings]) -> Iterator[Setting]:
    """The settings of a step, in order."""
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if _KEY in item.metadata:
            yield dataclasses.replace(item.metadata[_KEY], name=item.name)


def named(cls: type[Settings], name: str) -> Setting:
    """One setting of a step."""
    return next(item for item in settings_of(cls) if item.name == name)


def from_mapping(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """The settings of a step from a mapping of their names, such as a node of an MMEngine config.

    Raises:
        NDSError: an unknown name, or a value that its setting refuses.
    """
    known = {item.name: item for item in settings_of(cls)}
    for name in values:
        if name not in known:
            raise NDSError(f"{where}: unknown setting {name!r}.{did_you_mean(str(name), known)}")
    found = {name: from_plain(known[name], value) for name, value in values.items()}
    for name, value in found.items():
        known[name].check(value, f"{where}: {name}")  # the class itself would name the step
    return cls(**found)


def to_plain(item: Setting, value: Any) -> Any:
    """A value as a config or a command line, which have no None, writes it."""
    return item.none if value is None else value


def from_plain(item: Setting, value: Any) -> Any:
    """A value as a config or a command line wrote it; whole numbers serve as numbers, lists as tuples."""
    if item.none is not None and value == item.none:
        return None
    if item.kind is float and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return float(value)
    return tuple(value) if item.kind is tuple and isinstance(value, list) else value
