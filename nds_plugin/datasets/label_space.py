"""One label space for several sources: union of their classes by name, or by a mapping file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.source.class_names import NAME, SPELLING, SYNONYM, canonical, normalise
from nds_plugin.store.schema import check_names

DROPPED = -1
EVERY_SOURCE = "*"
MAPPING = "mapping"

ClassMap = dict[str, str | None]
MappingLike = Union[Mapping[str, Mapping[str, str | None]], str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Renamed:
    """A class of a source that became a united class of another name.

    Attributes:
        source, old: whose class it is, and its name there.
        new: name of the united class.
        how: "spelling" (equal but for case, spaces and punctuation), "synonym", or "mapping".
    """

    source: str
    old: str
    new: str
    how: str


@dataclass(frozen=True)
class LabelSpace:
    """The united classes of several sources.

    Attributes:
        classes: names of the united classes, in order of first appearance.
        maps: per source, int32 of shape (classes of the source,): the source's class position to
            the united one, ``DROPPED`` where the mapping drops the class.
        labelled: per source, the united classes that its annotators looked for. An object of any
            other class may lie unlabelled in its images, so it says nothing about background.
        renamed: the classes that were united by more than an equal name.
        apart: pairs of names of different sources that look like one class and were left two, since one
            of these sources has several such names.
    """

    classes: tuple[str, ...]
    maps: tuple[npt.NDArray[np.int32], ...]
    labelled: tuple[frozenset[int], ...]
    renamed: tuple[Renamed, ...] = ()
    apart: tuple[tuple[str, str], ...] = ()

    @property
    def partial(self) -> bool:
        """Whether a source does not label all of the classes."""
        return any(len(labelled) < len(self.classes) for labelled in self.labelled)

    @property
    def label_spaces(self) -> list[list[int]]:
        """Per source the united classes that it labels, ascending, as heads are told them."""
        return [sorted(labelled) for labelled in self.labelled]

    def to_dict(self) -> dict[str, Any]:
        """The classes and how they came about, as JSON values."""
        return {
            "classes": list(self.classes),
            "renamed": [asdict(renamed) for renamed in self.renamed],
            "apart": [list(pair) for pair in self.apart],
        }


def unite(
    class_lists: Sequence[Sequence[str]],
    mapping: MappingLike | None = None,
    sources: Sequence[str] | None = None,
    *,
    partial: bool = False,
) -> LabelSpace:
    """Unite the classes of several sources.

    Classes of different sources are the same where their names or synonyms are
    (:mod:`nds_plugin.source.class_names`); the spelling that comes first stays. Different names of one
    source are different classes, whatever they look like: one of them joins a united class, or where
    it cannot be told which, none does.

    Args:
        class_lists: per source, the names of its classes in the order of its class positions.
        mapping: ``{source or "*": {class of the source: united class, or None to drop it}}``, or
            the path of a JSON or YAML file that holds this. An entry for a source goes before "*".
        sources: names of the sources, for the mapping and for messages; default "0", "1", ...
        partial: the mapping may also name sources and classes that are not here.

    Raises:
        NDSError: the mapping is not of this form, or names a source or a class that is not there
            (the nearest names are listed); or no class is left.
    """
    names = [str(i) for i in range(len(class_lists))] if sources is None else list(sources)
    if len(names) != len(class_lists):
        raise NDSError(f"unite got {len(class_lists)} class lists but {len(names)} source names.")
    if len(set(names)) != len(names):
        raise NDSError(f"source names must differ, got {', '.join(names)}.")
    rules, where = _read_mapping(mapping)
    if not partial:
        _refuse_unknown(rules, dict(zip(names, class_lists)), where)
    union = _Union()
    maps, renamed, apart = [], [], []
    for name, class_list in zip(names, class_lists):
        ways = {}
        for source in (EVERY_SOURCE, name):
            ways.update(_exact(rules.get(source, {}), class_list, f"class mapping {where}, {name!r}"))
        new_names = [ways.get(old, old) for old in class_list]
        places, pairs = union.add([new for new in new_names if new is not None])
        apart += pairs
        positions = [DROPPED if new is None else places[new][0] for new in new_names]
        maps.append(np.array(positions, dtype=np.int32))
        for old, new in zip(class_list, new_names):
            if new is not None and old != union.classes[places[new][0]]:
                how = MAPPING if new != old else places[new][1]
                renamed.append(Renamed(name, old, union.classes[places[new][0]], how))
    classes = union.classes
    if not classes:
        listed = ", ".join(names) or "none"
        raise NDSError(f"no class is left of the sources {listed} under the class mapping {where}.")
    labelled = tuple(frozenset(m[m != DROPPED].tolist()) for m in maps)
    return LabelSpace(tuple(classes), tuple(maps), labelled, tuple(renamed), tuple(apart))


@dataclass
class _Union:
    """United classes as they grow, source by source.

    Attributes:
        classes: the spelling of each that came first.
        members: the names that each has in some source.
    """

    classes: list[str] = field(default_factory=list)
    members: list[set[str]] = field(default_factory=list)

    def add(self, names: Sequence[str]) -> tuple[dict[str, tuple[int, str]], list[tuple[str, str]]]:
        """Find or make the class of each name of one source.

        Returns:
            name -> (position of its class, how it got there); and the pairs of names that were left apart.
        """
        names = list(dict.fromkeys(names))
        places = {name: (self.classes.index(name), NAME) for name in names if name in self.classes}
        for key, how in ((_same, NAME), (normalise, SPELLING), (canonical, SYNONYM)):
            self._join(names, places, key, how)
        others = [name for name in self.classes if name not in names]
        apart = []
        for name in names:
            if name not in places:
                apart += [(other, name) for other in others if canonical(other) == canonical(name)]
                places[name] = len(self.classes), NAME
                self.classes.append(name)
                self.members.append(set())
        for name, (place, _) in places.items():
            self.members[place].add(name)
        return places, apart

    def _join(
        self, names: Sequence[str], places: dict[str, tuple[int, str]], key: Callable[[str], str], how: str
    ) -> None:
        """Place names whose key is that of one class, where no other name of the source claims it."""
        taken = {place for place, _ in places.values()}
        free = [name for name in names if name not in places]
        claims: dict[int, list[str]] = {}
        for name in free:
            alike = [
                i
                for i, members in enumerate(self.members)
                if any(key(member) == key(name) for member in members)
            ]
            if len(alike) == 1 and alike[0] not in taken:
                claims.setdefault(alike[0], []).append(name)
        places.update({claim[0]: (place, how) for place, claim in claims.items() if len(claim) == 1})


def _same(name: str) -> str:
    return name


def _exact(rules: ClassMap, class_list: Sequence[str], where: str) -> ClassMap:
    """The rules that concern a source, for its very names.

    A rule is for the class of its name; where the source has none, for the one that has it but for case, spaces
    and punctuation.

    Raises:
        NDSError: there are several such.
    """
    found: ClassMap = {old: new for old, new in rules.items() if old in class_list}
    for old, new in rules.items():
        alike = [name for name in dict.fromkeys(class_list) if normalise(name) == normalise(old)]
        if old in class_list or not alike:
            continue
        if len(alike) > 1:
            raise NDSError(
                f"{where}: {old!r} may mean {' or '.join(map(repr, alike))}: write the name as it is."
            )
        found.setdefault(alike[0], new)
    return found


def _read_mapping(mapping: MappingLike | None) -> tuple[dict[str, ClassMap], str]:
    """The rules and what to call their origin in a message."""
    if mapping is None:
        return {}, "(none)"
    if isinstance(mapping, (str, os.PathLike)):
        where = f"file {os.fspath(mapping)}"
        document = _read_file(Path(mapping))
    else:
        where, document = "given", mapping
    form = '{source or "*": {class: united class, or null to drop it}}'
    if not isinstance(document, Mapping):
        raise NDSError(f"class mapping {where}: expected {form}, got a {type(document).__name__}.")
    for source, rules in document.items():
        if not isinstance(rules, Mapping):
            raise NDSError(f"class mapping {where}: expected {form}, got {rules!r} for {source!r}.")
        for old, new in rules.items():
            if not isinstance(old, str) or not (new is None or (isinstance(new, str) and new.strip())):
                raise NDSError(f"class mapping {where}, {source!r}: expected {form}, got {old!r}: {new!r}.")
            check_names([] if new is None else [new], f"class mapping {where}")
    return {str(source): dict(rules) for source, rules in document.items()}, where


def _read_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NDSError(
            f"class mapping file not found: {path}: check the path in NDS.SOURCE.LABEL_MAPPING."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise NDSError(f"cannot read the class mapping file {path}: {error}.") from None
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise NDSError(f"class mapping file {path} is not JSON: {error}.") from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise NDSError(f"class mapping file {path} is not YAML: {reason}.") from None


def _refuse_unknown(rules: dict[str, ClassMap], class_lists: Mapping[str, Iterable[str]], where: str) -> None:
    for source, rule in rules.items():
        if source != EVERY_SOURCE and source not in class_lists:
            raise unknown_name(f"source in the class mapping {where}", source, class_lists)
        members = class_lists.values() if source == EVERY_SOURCE else [class_lists[source]]
        known = {normalise(name): name for names in members for name in names}
        owner = "any source" if source == EVERY_SOURCE else f"source {source!r}"
        for old in rule:
            if normalise(old) not in known:
                raise unknown_name(f"class of {owner} in the class mapping {where}", old, known.values())
