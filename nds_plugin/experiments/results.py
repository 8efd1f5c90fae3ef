"""Results of cells: what is kept of a run, and the file that collects them.

The file, as ``docs/benchmark.json`` of the CPU-sized benchmark, is ``{"cells": [...], "details": {...}}``. A
cell holds ``client``, ``selector``, ``budget`` (share of the source; a number of images in tables 4 and
5), ``seed``, ``AP_bb``, ``AP50_bb``, ``AP``, ``AP50``, ``per_category`` (mask AP; box AP where no masks are
evaluated), ``config_hash`` and ``seconds``. ``details`` holds, by the cell's name and config hash, what
else is worth keeping: AP before fine-tuning, what was drawn, cost, times, versions, machine, the hash of the
source's index (none where nothing was drawn), and as ``changed`` the settings in which the cell's config differs
from that of its row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.experiments.rows import Cell
from nds_plugin.files.artifacts import atomic_write, check_writable
from nds_plugin.files.locking import held
from nds_plugin.report.measures import ACCURACIES
from nds_plugin.report.result_table import MEANS


def fields(means: Sequence[str] = MEANS) -> tuple[str, ...]:
    """The fields of a cell whose measures are these."""
    return ("client", "selector", "budget", "seed", *means, "per_category", "config_hash", "seconds")


def record(cell: Cell, document: Mapping[str, Any], config_hash: str, seconds: float) -> dict[str, Any]:
    """The cell's entry from the results document of its run.

    Args:
        document: what the main job wrote as ``results.json``.
        seconds: the run took, all attempts together.

    Raises:
        NDSError: the document is of another selector or seed.
    """
    _check_document(cell, document)
    summary = document["summary"]
    per_category = summary["per_category"] or summary["per_category_bb"]
    return _entry(cell, document, MEANS, per_category, config_hash, seconds)


def _check_document(cell: Cell, document: Mapping[str, Any]) -> None:
    if document["selector"] != cell.row.selector or document["seed"] != cell.seed:
        raise NDSError(
            f"{cell.name}: expected results of {cell.row.selector} with seed {cell.seed}, got those of "
            f"{document['selector']} with seed {document['seed']}."
        )


def _entry(
    cell: Cell,
    document: Mapping[str, Any],
    measures: Sequence[str],
    per_category: Mapping[str, float],
    config_hash: str,
    seconds: float,
) -> dict[str, Any]:
    return {
        "client": cell.row.client,
        "selector": cell.row.selector,
        "budget": cell.row.budget,
        "seed": cell.seed,
        **{name: document["summary"][name] for name in measures},
        "per_category": per_category,
        "config_hash": config_hash,
        "seconds": round(seconds, 1),
    }


def details(document: Mapping[str, Any]) -> dict[str, Any]:
    """What else of a results document is kept beside its cell."""
    before, selection = document.get("pretrained"), document.get("selection") or {}
    measured = ("classes", "AP_bb", "AP", "per_category_bb", "per_category")
    return {
        "before_finetuning": {name: before[name] for name in measured} if before else None,
        "per_category_bb": document["summary"]["per_category_bb"],
        "images": selection.get("images"),
        "drawn": {row["source"]: round(row["draw_share"], 4) for row in selection.get("sources", [])},
        "cost": selection.get("cost"),
        **_of_every_run(document),
    }


def _of_every_run(document: Mapping[str, Any]) -> dict[str, Any]:
    selection = document.get("selection") or {}
    return {
        "z": selection.get("z"),
        "w": selection.get("weights") if selection.get("z") else None,
        "index": selection.get("index"),
        "times": _whole_times(document),
        **{name: document[name] for name in ("versions", "machine")},
    }


def classifier_record(
    cell: Cell, document: Mapping[str, Any], config_hash: str, seconds: float
) -> dict[str, Any]:
    """The entry of a cell that trains a classifier; see :func:`record`."""
    _check_document(cell, document)
    return _entry(cell, document, tuple(ACCURACIES), {}, config_hash, seconds)


def classifier_details(document: Mapping[str, Any]) -> dict[str, Any]:
    """What else is kept of such a cell."""
    selection = document.get("selection") or {}
    return {
        "images": selection.get("images"),
        "effective_images": selection.get("effective_images"),
        "cost": selection.get("cost"),
        **_of_every_run(document),
    }


def _whole_times(document: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds of the steps; None of a training that was interrupted, of which only the last part is known."""
    in_parts = document.get("trained_in_parts", ())
    return {name: None if name in in_parts else value for name, value in document["times"].items()}


class OtherDataError(NDSError):
    """A cell of other data than those that it would stand beside."""

    code = "other-data"


def check_one_source(details: Iterable[Mapping[str, Any]]) -> None:
    """Refuse cells that were drawn from different data; those that do not say from which are taken as they are.

    Raises:
        OtherDataError: their sources have different indices.
    """
    found = sorted({detail["index"] for detail in details if detail.get("index")})
    if len(found) > 1:
        raise OtherDataError(
            f"cells of different data (the index of the source was {' and '.join(index[:10] for index in found)}): a table "
            "is of one; start in another folder by --output, and with another file where --results is given."
        )


def key_of(entry: Mapping[str, Any]) -> str:
    """The name under which the details of an entry are kept."""
    return "/".join(str(entry[name]) for name in ("client", "selector", "budget", "seed", "config_hash"))


class ResultsFile:
    """The collected cells; several processes may add to it at once.

    Args:
        means: the measures of a cell.
    """

    def __init__(self, path: str | os.PathLike[str], means: Sequence[str] = MEANS) -> None:
        self.path = Path(path)
        self._means = tuple(means)

    def read(self) -> dict[str, Any]:
        """The document; an empty one where there is no file yet.

        Raises:
            NDSError: the file is no such document.
        """
        if not self.path.exists():
            return {"cells": [], "details": {}}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NDSError(f"{self.path} is not a complete JSON file ({error}).") from None
        if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
            raise NDSError(f'{self.path}: expected {{"cells": [...]}}.')
        for place, entry in enumerate(document["cells"]):
            problem = _problem(entry, self._means)
            if problem:
                raise NDSError(f"{self.path}: cells[{place}] {problem}.")
        details = document.get("details") or {}
        if not isinstance(details, dict):
            raise NDSError(
                f"{self.path}: expected details by the cells' names, got a {type(details).__name__}."
            )
        return {"cells": document["cells"], "details": details}

    def add(self, entry: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        """Put a cell in, in place of an earlier one of the same identity and config."""
        check_writable(self.path.parent)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with held(lock, f"waiting for another process that writes {self.path}."):
            document = self.read()
            key = key_of(entry)
            kept = [old for old in document["cells"] if key_of(old) != key]
            document["cells"] = sorted([*kept, dict(entry)], key=_order)
            document["details"] = dict(sorted({**document["details"], key: dict(detail)}.items()))
            write_results_file(self.path, document)


def _problem(entry: Any, means: Sequence[str]) -> str:
    """What is wrong with a cell that was read, or nothing."""
    if not isinstance(entry, dict):
        return f"should hold keys and values, got {entry!r}"
    missing = [name for name in fields(means) if name not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not isinstance(entry["per_category"], dict):
        return f"should have AP by category in per_category, got {entry['per_category']!r}"
    numbers = {name: entry[name] for name in ("budget", "seed", *means, "seconds")} | entry["per_category"]
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            return f"should have a number as {name}, got {value!r}"
    return ""


def write_results_file(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write the document atomically, a line per cell and per detail, so that changes are easy to read."""
    cells = [json.dumps(entry, allow_nan=False) for entry in document["cells"]]
    kept = document["details"].items()
    details = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in kept]
    with atomic_write(path, "w") as file:
        file.write(f'{{\n "cells": [{_lines(cells)}],\n "details": {{{_lines(details)}}}\n}}\n')


def _lines(texts: Sequence[str]) -> str:
    return "\n  " + ",\n  ".join(texts) + "\n " if texts else ""


def of_configs(
    entries: Iterable[Mapping[str, Any]], hashes: Mapping[tuple[str, str, float], str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Entries whose row has this config hash, and the others, which another config made.

    Args:
        hashes: by the identity of a row.
    """
    current: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for entry in entries:
        fits = hashes.get((entry["client"], entry["selector"], entry["budget"])) == entry["config_hash"]
        (current if fits else others).append(dict(entry))
    return current, others


def _order(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        entry["client"], entry["config_hash"], entry["budget"], entry["selector"], entry["seed"],
    )  # fmt: skip
