"""The tables of settings in docs/configuration.md, made from the classes that hold them.

python docs/settings_table.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from marks import written

from nds_plugin.experts.settings import EXPERT_CONFIGS
from nds_plugin.pipeline.config_nodes import config_keys, nodes
from nds_plugin.settings import Setting, to_plain

PAGE = Path(__file__).resolve().parent / "configuration.md"
SYMBOLS = {
    "TEMPERATURE": "T",
    "NORMALISATION": "z'",
    "BUDGET.IMAGES": "m",
    "PARTITION.METHOD": "g",
    "PARTITION.NUM_CLUSTERS": "K",
    "EXPERTS.TASK": "e",
    "SCORING.METRIC": "z",
    "SCORING.MAX_IMAGES": "n",
}


KINDS = {cls: kind for kind, cls in EXPERT_CONFIGS.items()}


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


def table() -> str:
    """A line per key."""
    lines = ["| key | default | | may be | meaning |", "|---|---|---|---|---|"]
    for key, item in rows():
        default = to_plain(item, item.default)
        shown = f"`{default or chr(34) * 2}`" if isinstance(default, str) else str(default)
        range_ = ", ".join(f"`{c}`" for c in item.choices) or item.range
        also = f"; {item.none}: all" if item.none is not None else ""
        lines.append(f"| `{key}` | {shown} | {SYMBOLS.get(key, '')} | {range_} | {item.help}{also} |")
    return "\n".join(lines)


def updated(page: str) -> str:
    """A page with the table made anew."""
    return written(page, __file__, table())


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
