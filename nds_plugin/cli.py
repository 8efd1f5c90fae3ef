"""What the command line tools share: logging, one-line errors, and how a source is named."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from nds_plugin.artifacts import DISK_FULL
from nds_plugin.errors import NDSError, one_line
from nds_plugin.index import SourceIndex

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def run(main: Callable[[], None]) -> None:
    """Run a tool: a user's mistake ends in one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except Exception as error:
        message = users_mistake(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def users_mistake(error: BaseException) -> str | None:
    """The line for an exception that bad input or a full or closed disk raised; None for a defect."""
    if isinstance(error, NDSError):
        return one_line(error)
    # Detectron2 writes files of its own: logs, metrics, predictions.
    cause: BaseException | None = error
    while cause is not None:  # torch.save hides the failed write behind an error of its own
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            where = cause.filename or "a file"
            return (
                f"disk full while writing {where}: free some space and start again, finished steps are kept."
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return f"{error.filename or 'a file'}: {error.strerror}: allow it and start again."
    return None


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed command line; what is wrong with it is told in one line, as everything else.

    Raises:
        NDSError: an unknown, missing or malformed argument.
    """

    def refuse(message: str) -> NoReturn:
        raise NDSError(f"command line: {message}; {parser.prog} --help lists the arguments.")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args()


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


def add_target_arguments(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add the three ways to name a client's images, of which one is given."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--images", help="a folder of images")
    group.add_argument("--coco", nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json and its images")
    group.add_argument("--dataset", help="a registered Detectron2 dataset")


def target_from_arguments(args: argparse.Namespace) -> SourceIndex | str:
    """The client's images that :func:`add_target_arguments` parsed: an index, or a folder."""
    if args.images is not None:
        return str(args.images)
    if args.coco is not None:
        from nds_plugin.datasets.coco import index_coco

        return index_coco(*args.coco)
    from nds_plugin.d2.registration import index_dataset

    return index_dataset(args.dataset)
