"""The record of a training: ``metrics.json``, one JSON object a line, in the form of Detectron2's JSONWriter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nds_plugin.files.artifacts import atomic_write

NAME = "metrics.json"


def add_line(folder: Path, iteration: int, **values: float | None) -> None:
    """Tell how a training does after so many iterations; what is None is left out."""
    told: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps({**told, "iteration": iteration}, sort_keys=True) + "\n")


def cut(folder: Path, iteration: int) -> None:
    """Forget what a run told after an iteration that is gone on from: it will be told again."""
    path = folder / NAME
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    with atomic_write(path, "w") as file:
        file.writelines(line for line in lines if _iteration(line) <= iteration)


def _iteration(line: str) -> float:
    """Of a line; endless for one that a run was killed in."""
    try:
        return float(json.loads(line)["iteration"]) if line.endswith("\n") else float("inf")
    except (ValueError, TypeError, KeyError):
        return float("inf")
