"""One label space for several sources: union of their classes by name, or by a mapping file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.source.class_names import canonical, normalise

DROPPED = -1
EVERY_SOURCE = "*"

ClassMap = dict[str, str | None]
MappingLike = Union[Mapping[str, Mapping[str, str | None]], str, "os.PathLike[str]"]


@dataclass(frozen=True)
class LabelSpace:
    """The united classes of several sources.

    Attributes:
        classes: names of the united classes, in order of first appearance.
        maps: per source, int32 of shape (classes of the source,): the source's class position to
            the united one, ``DROPPED`` where the mapping drops the class.
        labelled: per source, the united classes that its annotators looked for. An object of any
            other class may lie unlabelled in its images, so it says nothing about background.
    """

    classes: tuple[str, ...]
    maps: tuple[npt.NDArray[np.int32], ...]
    labelled: tuple[frozenset[int], ...]


def unite(
    class_lists: Sequence[Sequence[str]],
    mapping: MappingLike | None = None,
    sources: Sequence[str] | None = None,
    *,
    partial: bool = False,
) -> LabelSpace:
    """Unite the classes of several sources.

    Classes are the same where their names or synonyms are (:mod:`nds_plugin.source.class_names`); the
    spelling that comes first stays.

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
    general = _normalised(rules.get(EVERY_SOURCE, {}))
    classes: dict[str, int] = {}
    spellings: list[str] = []
    maps = []
    for name, class_list in zip(names, class_lists):
        own = {**general, **_normalised(rules.get(name, {}))}
        positions = np.full(len(class_list), DROPPED, dtype=np.int32)
        for i, old in enumerate(class_list):
            new = own.get(normalise(old), old)
            if new is None:
                continue
            if canonical(new) not in classes:
                classes[canonical(new)] = len(classes)
                spellings.append(new)
            positions[i] = classes[canonical(new)]
        maps.append(positions)
    if not classes:
        listed = ", ".join(names) or "none"
        raise NDSError(f"no class is left of the sources {listed} under the class mapping {where}.")
    labelled = tuple(frozenset(m[m != DROPPED].tolist()) for m in maps)
    return LabelSpace(tuple(spellings), tuple(maps), labelled)


def _normalised(rules: ClassMap) -> ClassMap:
    return {normalise(old): new for old, new in rules.items()}


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
    return {str(source): dict(rules) for source, rules in document.items()}, where


def _read_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NDSError(f"class mapping file not found: {path}.") from None
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
