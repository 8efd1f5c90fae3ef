"""What of a page is made from a file of results."""

from __future__ import annotations

from pathlib import Path

from nds_plugin.experiments.benchmark_page import BEGIN, END


def generated_part(path: Path) -> str:
    """The generated part of a page, as it was written."""
    page = path.read_text(encoding="utf-8")
    return page.partition(f"{BEGIN}\n")[2].partition(END)[0]
