"""The page of a whole grid: tables with intervals, curves, and what one of its runs selected."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.report.html import write_report
from nds_plugin.report.result_table import ResultTable
from nds_plugin.report.runs import selection_parts
from nds_plugin.report.table_formats import as_sections


def write_grid_page(
    path: str | os.PathLike[str],
    title: str,
    tables: Mapping[str, ResultTable],
    curves: Sequence[Path],
    counts: tuple[int, int],
    cell: str = "",
    run: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write the page.

    Args:
        path: of the HTML page.
        title: of the grid.
        tables: of each client.
        curves: pictures of AP against budget.
        counts: of all cells, and of those that are missing.
        cell: name of a finished cell whose clusters, weights and draw are shown.
        run: its results document.
        seed: of the images in the cluster sheet.
    """
    whole, missing = counts
    parts = selection_parts(run, Path(path), seed) if run else {}
    shown = f" What is shown of a single run is of {cell}." if run else ""
    page = {
        "title": title,
        "subtitle": f"{whole - missing} of {whole} cells finished.{shown}",
        "notes": [f"{missing} of {whole} cells missing: the comparison is not complete."] if missing else [],
        "tables": [section for client, table in tables.items() for section in as_sections(table, client)],
        **parts,
        "pictures": [
            *(
                {"path": str(curve), "title": _curve_title(curve), "caption": "", "narrow": True}
                for curve in curves
            ),
            *({**picture, "title": f"{cell}: {picture['title']}"} for picture in parts.get("pictures", [])),
        ],
    }
    return write_report(path, {name: value for name, value in page.items() if value})


def _curve_title(curve: Path) -> str:
    name = curve.stem.removeprefix("curve").strip("_")
    client = name.removesuffix("AP_bb").removesuffix("AP").strip("_")
    return f"{'Box' if name.endswith('AP_bb') else 'Mask'} AP against budget" + (
        f", {client}" if client else ""
    )
