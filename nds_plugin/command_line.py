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
from typing import NoReturn

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


def add_device_arguments(parser: argparse._ActionsContainer) -> None:
    """Add what reads images and where networks run."""
    parser.add_argument("--num-workers", type=int, default=2, help="loader processes (default 2)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")


def add_network_arguments(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Add the network whose features are looked at; both go to ``load_feature_network``."""
    parser.add_argument(
        "--network",
        required=required,
        default="",
        help="shared.safetensors or another file of a ResNet, package:efficientnet-lite0, or timm's name of a network",
    )
    parser.add_argument("--weights", help="of a named network: a file; by default they come from timm's hub")
