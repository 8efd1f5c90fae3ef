"""``--select-only`` of the three main jobs."""

from __future__ import annotations

import argparse
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING


def add_select_only(parser: Any) -> None:
    """Add the option to a parser or a group of one."""
    parser.add_argument(
        "--select-only",
        action="store_true",
        help="select, write the page selection.html, and stop before any training on the draw",
    )


def check_selects(args: argparse.Namespace, selector: str) -> None:
    """Refuse the option where nothing is selected.

    Raises:
        NDSError: the selector of the config is none.
    """
    if args.select_only and selector == NO_PRETRAINING:
        raise NDSError(
            f"--select-only: the selector is {NO_PRETRAINING}, which selects nothing: name one, or leave the option out."
        )
