"""The tables of settings in docs/configuration.md and docs/ssl.md, made from the classes that hold them.

python docs/settings_table.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from marks import written

from nds_plugin.experts.settings import EXPERT_CONFIGS
from nds_plugin.pipeline.config_nodes import config_keys, nodes
from nds_plugin.settings import Setting, Settings, settings_of, to_plain
from nds_plugin.ssl.config import NODES

HERE = Path(__file__).resolve().parent
SYMBOLS = {
    "TEMPERATURE": "T",
    "NORMALISATION": "z'",
    "BUDGET.IMAGES": "m",
    "PARTITION.METHOD": "g",
    "PARTITION.NUM_CLUSTERS": "K",
    "EXPERTS.TASK": "e",
    "SCORING.METRIC": "z",
    "SCORING.MAX_IMAGES": "n",
    "PRETRAIN.QUEUE": "K",
    "PRETRAIN.DIM": "D",
    "PRETRAIN.TEMPERATURE": "t",
    "PRETRAIN.EMA": "m",
}


KINDS: dict[type[Settings], str] = {cls: kind for kind, cls in EXPERT_CONFIGS.items()}


def rows() -> Iterator[tuple[str, Setting]]:
    """The keys of ``cfg.NDS`` that steps own, each once; of experts with the kind that alone knows a key."""
    found: dict[str, list[tuple[Setting, str]]] = {}
    for node, cls in nodes():
        for key, item in config_keys(node, cls):
            found.setdefault(key, []).append((item, KINDS.get(cls, "")))
    for key, items in found.items():
        (item, kind), *others = items
        helps = sorted({item.help, *(other.help for other, _ in others if kind)}, key=len)
        shorter, text = helps[0], helps[-1]
        assert shorter in text, f"{key}: what it means to one kind of experts does not tell what to the other"
        if kind and not others and not text.startswith("of kind"):
            text = f"of kind {kind}: {text}"
        yield key, replace(item, help=text)


def ssl_rows() -> Iterator[tuple[str, Setting]]:
    """The keys of the nodes that self-supervision has beside ``cfg.NDS``."""
    for node, cls in NODES.items():
        for item in settings_of(cls):
            yield f"{node}.{item.key}", item


def table(found: Iterable[tuple[str, Setting]]) -> str:
    """A line per key."""
    lines = ["| key | default | | may be | meaning |", "|---|---|---|---|---|"]
    for key, item in found:
        default = to_plain(item, item.default)
        shown = f"`{default or chr(34) * 2}`" if isinstance(default, str) else str(default)
        range_ = ", ".join(f"`{c}`" for c in item.choices) or item.range
        range_ += f", or {item.none}" if item.none is not None else ""
        also = f"; {item.none}: all" if item.none is not None else ""
        lines.append(f"| `{key}` | {shown} | {SYMBOLS.get(key, '')} | {range_} | {item.help}{also} |")
    return "\n".join(lines)


PAGES: dict[Path, Callable[[], Iterable[tuple[str, Setting]]]] = {
    HERE / "configuration.md": rows,
    HERE / "ssl.md": ssl_rows,
}


def updated(path: Path) -> str:
    """A page with its table made anew."""
    return written(path.read_text(encoding="utf-8"), __file__, table(PAGES[path]()))


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(updated(path), encoding="utf-8")
