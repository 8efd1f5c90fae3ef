"""``--select-only`` of the three main jobs."""

from __future__ import annotations

from typing import Any


def add_select_only(parser: Any) -> None:
    """Add the option to a parser or a group of one."""
    parser.add_argument(
        "--select-only",
        action="store_true",
        help="select, write the page selection.html, and stop before any training on the draw",
    )
