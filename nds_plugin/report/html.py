"""One self-contained HTML page per run: light enough to mail, readable on a phone, no scripts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.report import sections
from nds_plugin.report.embed import data_uris
from nds_plugin.report.style import CSS

logger = logging.getLogger(__name__)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing from outside
PARTS = (
    "title", "subtitle", "synthetic", "notes", "results", "baseline", "tables", "pictures", "clusters",
    "selection", "sources", "transfer", "timings", "trained_in_parts", "versions", "config",
)  # fmt: skip


def write_report(path: str | os.PathLike[str], run: Mapping[str, Any]) -> Path:
    """Write the page of a run.

    Args:
        path: of the page; written atomically.
        run: what to show, plain values. Everything but the title is optional:

            ``title``, ``subtitle``: text.
            ``synthetic``: True puts a line at the top that the data is synthetic.
            ``notes``: list of text, for what a reader must know.
            ``results``: {row name: {``AP_bb``, ``AP50_bb``, ``AP``, ``AP50``: number or None,
                ``per_category``: {class: mask AP}, ``per_category_bb``: {class: box AP}}}, rows for
                example none, uniform, nds; an optional ``seeds`` (number of runs) and ``spread``
                ({metric: standard deviation over seeds}).
            ``baseline``: name of the row to which the others are compared (default "uniform").
            ``tables``: list of {``title``, ``text``, ``header``: texts, ``rows``: lists of texts}, shown as
                they are.
            ``pictures``: list of {``path``, ``title``, ``caption``}; PNG or JPEG files, embedded;
                ``narrow``: True for one that is readable at a phone's width; ``wide``: for one whose letters
                are too small where it is scaled down, so that a phone scrolls it.
            ``clusters``: rows {``cluster``, ``sources`` (text), ``images``, ``z``, ``w``, ``share``}
                and ``stderr``; ``nds_plugin.selection.tables.cluster_table`` makes them.
            ``selection``: {name: value} beside the cluster table: budget, temperature,
                ``effective_clusters``, ``effective_sample_size``, ...
            ``sources``: rows {``source``, ``index_share``, ``draw_share``}.
            ``transfer``: {``classes``: [{``target``, ``source``, ``how``}], ``kept``, ``mapped``,
                ``initialised``, ``missing``: lists of names, ``dropped``: {name: reason}}.
            ``timings``: {step: seconds}; ``trained_in_parts``: names of the trainings that were interrupted,
                whose seconds are those of the last part. ``versions``: {name: version}.
            ``config``: text (YAML), or a nested mapping.

    Returns:
        The path.

    Raises:
        NDSError: no title, a part of an unknown name, a picture that cannot be read, or the page
            cannot be written.
    """
    if not run.get("title"):
        raise NDSError("report: the run needs a 'title'.")
    unknown = sorted(set(run) - set(PARTS))
    if unknown:
        raise NDSError(f"report: unknown part {unknown[0]!r} of the run; known: {', '.join(PARTS)}.")
    page = render(run)
    with atomic_write(path, "w") as file:
        file.write(page)
    logger.info("report: %s (%.0f KB)", path, len(page) / 1000)
    return Path(path)


def render(run: Mapping[str, Any]) -> str:
    """The page as text; see :func:`write_report`."""
    title = escape(str(run["title"]))
    pictures = list(run.get("pictures") or [])
    parts = [
        _header(run, title),
        sections.results(run.get("results") or {}, str(run.get("baseline") or "uniform")),
        *(sections.plain_table(table) for table in run.get("tables") or []),
        sections.pictures(pictures, data_uris([picture["path"] for picture in pictures])),
        sections.clusters(run.get("clusters") or [], run.get("selection") or {}),
        sections.sources(run.get("sources") or []),
        sections.transfer(run.get("transfer") or {}),
        sections.timings(run.get("timings") or {}, run.get("trained_in_parts") or []),
        sections.config(run.get("versions") or {}, run.get("config")),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{"".join(parts)}</main>
</body>
</html>
"""


def _header(run: Mapping[str, Any], title: str) -> str:
    subtitle = f"<p class='sub'>{escape(str(run['subtitle']))}</p>" if run.get("subtitle") else ""
    banner = (
        "<p class='note'><strong>Synthetic data.</strong> The pictures are drawn by the package; these "
        "numbers show that the software works and say nothing about real photographs.</p>"
        if run.get("synthetic")
        else ""
    )
    notes = "".join(f"<p class='note'>{escape(str(note))}</p>" for note in run.get("notes") or [])
    return f"<header><h1>{title}</h1>{subtitle}</header>{banner}{notes}\n"
