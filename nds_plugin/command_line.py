"""What the command line tools share: logging, one-line errors and parsers.

May import: errors, files.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from nds_plugin.errors import NDSError, one_line
from nds_plugin.files.artifacts import DISK_FULL

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def run(main: Callable[[], None]) -> None:
    """Run a tool: a user's mistake ends in one line on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough: "... | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
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


class Parser(argparse.ArgumentParser):
    """A parser whose own mistakes, and those of its sub-commands, are told in one line."""

    def error(self, message: str) -> NoReturn:
        raise NDSError(f"command line: {message}; {self.prog} --help lists the arguments.")


def documented_parser(doc: str | None, more: str = "") -> Parser:
    """A parser whose help is a tool's docstring: the first paragraph above the options, the rest below.

    Args:
        doc: the tool's ``__doc__``.
        more: added below the options.
    """
    description, _, rest = (doc or "").partition("\n\n")
    return Parser(
        description=description,
        epilog=f"{rest.rstrip()}\n{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line parsed by a parser that is not ours, such as Detectron2's; mistakes as by ours.

    Raises:
        NDSError: an unknown, missing or malformed argument.
    """
    parser.error = types.MethodType(Parser.error, parser)  # type: ignore[method-assign]
    return parser.parse_args()


class _Kept(argparse.Action):
    """Puts what is given into ``files``, too, in the order of the command line."""

    def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
        namespace.files = [*getattr(namespace, "files", []), (self.dest, values)]


def _source_names(args: argparse.Namespace) -> list[str]:
    """Names of the COCO files, then of the folders: those given, else derived ones."""
    from nds_plugin.source.source_names import name_sources

    if args.name:
        if len(args.name) != len(args.coco) + len(args.folder):
            raise NDSError(
                f"command line: {len(args.name)} times --name for {len(args.coco) + len(args.folder)} sources by "
                "--coco and --folder: give each of them a name, in their order, or none."
            )
        given = list(zip(args.files, args.name))
        names = [name for kind in ("coco", "folder") for (own, _), name in given if own == kind]
    else:
        names = name_sources([json_file for json_file, _ in args.coco], args.folder)
    taken = [*args.dataset, *names]
    twice = next((name for name in taken if not name or taken.count(name) > 1), None)
    if twice is not None:
        raise NDSError(
            f"command line: {taken.count(twice)} sources are called {twice!r}: give each another name by --name."
        )
    return names


def add_device_arguments(parser: argparse._ActionsContainer) -> None:
    """Add what reads images and where networks run."""
    parser.add_argument("--num-workers", type=int, default=2, help="loader processes (default 2)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
