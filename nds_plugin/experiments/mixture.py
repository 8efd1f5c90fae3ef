"""What not all cells of a table share of machines and versions, told below it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_VERSIONS = ("torch", "detectron2", "nds_plugin")


def told_mixture(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paragraph that counts the cells of each processor, GPU and version where there are several; else none.

    Args:
        entries: cells with their ``detail``; one that does not say where it was run is not counted.
    """
    told = []
    for name in ("processor", "GPU", *_VERSIONS):
        found = Counter(filter(None, (_of(entry["detail"], name) for entry in entries)))
        if len(found) > 1:
            told.append(f"by {name}: {', '.join(f'{value} ({n})' for value, n in sorted(found.items()))}")
    return [f"Cells {'; '.join(told)}.\n"] if told else []


def _of(detail: Mapping[str, Any], name: str) -> str:
    machine = detail.get("machine") or {}
    if name == "processor":
        return str(machine.get("cpu") or "")
    if name == "GPU":
        return ", ".join(dict.fromkeys(machine.get("gpus") or ()))
    return str((detail.get("versions") or {}).get(name) or "")
