"""What the command line tools share: logging, one-line errors, and how a source is named."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from nds_plugin.errors import NDSError
from nds_plugin.index import SourceIndex


def run(main: Callable[[], None]) -> None:
    """Run a tool: a user's mistake ends in one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except NDSError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three ways to name image sources; each may be repeated and they are joined."""
    group = parser.add_argument_group("sources (repeatable, joined in the order given)")
    group.add_argument("--dataset", action="append", default=[], help="a registered Detectron2 dataset")
    group.add_argument(
        "--coco", action="append", default=[], nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json"
    )
    group.add_argument("--folder", action="append", default=[], help="a folder of images")


def index_from_arguments(args: argparse.Namespace) -> SourceIndex:
    """The index of the sources that :func:`add_source_arguments` parsed.

    Raises:
        NDSError: no source given, or one that cannot be read.
    """
    from nds_plugin.datasets.coco import index_coco, index_folder

    indexes = []
    if args.dataset:
        from nds_plugin.d2.registration import index_dataset

        indexes += [index_dataset(name) for name in args.dataset]
    indexes += [index_coco(json_file, images) for json_file, images in args.coco]
    indexes += [index_folder(folder) for folder in args.folder]
    if not indexes:
        raise NDSError("no source given: name at least one by --dataset, --coco or --folder.")
    return SourceIndex.join(indexes)
