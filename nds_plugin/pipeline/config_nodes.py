"""Between a host's config ``cfg.NDS``, a tree of dicts, and the settings of the steps, whose classes say each key's default, meaning and range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from nds_plugin.engine.config import EngineConfig
from nds_plugin.experts.settings import ExpertConfig, ExpertKind, HeadConfig, ScoringConfig
from nds_plugin.selection.config import LoaderConfig, SelectionConfig
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.settings import Setting, Settings, from_plain, settings_of, to_plain
from nds_plugin.source.objects import ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig

S = TypeVar("S", bound=Settings)


def nodes() -> Iterator[tuple[str, type[Settings]]]:
    """Node below ``cfg.NDS``, and whose settings it holds; keys that steps share lie in ``cfg.NDS`` itself."""
    yield "", SelectionConfig
    yield "PARTITION", PartitionConfig
    yield "EXPERTS", ExpertKind
    yield "EXPERTS", ExpertConfig
    yield "EXPERTS", HeadConfig
    yield "SCORING", ScoringConfig
    yield "OBJECTS", ObjectConfig
    yield "LOADER", LoaderConfig
    yield "RAY", EngineConfig
    for name, selector in SELECTORS.items():
        for cls in (selector, *selector.also):
            yield name.upper(), cls


def config_keys(node: str, cls: type[Settings]) -> Iterator[tuple[str, Setting]]:
    """The key below ``cfg.NDS`` of each setting that a config gives."""
    for item in settings_of(cls):
        if item.key.startswith("."):
            yield item.key[1:], item
        elif item.key:
            yield f"{node}.{item.key}", item


def add_settings_nodes(nds: Any) -> None:
    """Add the defaults of all steps to ``cfg.NDS``."""
    for node, cls in nodes():
        for key, item in config_keys(node, cls):
            *parents, leaf = key.split(".")
            place = nds
            for parent in parents:
                place = place.setdefault(parent, type(nds)())
            place[leaf] = to_plain(item, item.default)


def read_settings(cls: type[S], nds: Any, node: str, **fixed: Any) -> S:
    """The settings of a step.

    Args:
        cls: whose.
        nds: ``cfg.NDS``.
        node: of the step below it.
        fixed: settings with another origin.

    Raises:
        NDSError: a value that its setting refuses.
    """
    found = {}
    for key, item in config_keys(node, cls):
        place: Any = nds
        for part in key.split("."):
            place = place[part]
        found[item.name] = from_plain(item, place)
        item.check(found[item.name], f"NDS.{key}")  # the class itself would name the field
    return cls(**{**found, **fixed})
