"""What the command line tools share: logging, one-line errors and parsers.

May import: errors, extras, settings, files.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nds_plugin import extras
from nds_plugin.errors import CommandLineError, NDSError, did_you_mean, one_line
from nds_plugin.files.artifacts import DISK_FULL
from nds_plugin.settings import Settings, from_plain, settings_of, to_plain

S = TypeVar("S", bound=Settings)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def run(main: Callable[[], None]) -> None:
    """Run a tool: a user's mistake ends in one line on stderr and exit status 2, Ctrl-C in one and 130."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(
            "stopped; the same command goes on from what it has kept.",
            file=sys.stderr,
        )
        raise SystemExit(128 + signal.SIGINT) from None
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
        return one_line(error) + (f" [{error.code}]" if error.code else "")
    if isinstance(error, ModuleNotFoundError) and (missing := extras.missing(error)):
        return users_mistake(missing)
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

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but what is unknown is an error at once: a sub-command knows its own options."""
        self._given = sys.argv[1:] if args is None else list(args)
        found, unknown = super().parse_known_args(self._given, namespace)
        if unknown:
            self.error(self._unrecognized(unknown))
        return found, unknown

    def parse_scattered(self, args: Sequence[str] | None, words: str) -> argparse.Namespace:
        """As ``parse_args``, but options may stand anywhere among the words of a positional, which takes any number.

        Args:
            args: as of ``parse_args``. words: the positional, the only one.
        """
        self._given = sys.argv[1:] if args is None else list(args)
        found, more = super().parse_known_args(self._given)  # takes the words up to the next option
        unknown = [text for text in more if self._is_unknown(text)]
        if unknown:
            self.error(self._unrecognized(unknown))
        setattr(found, words, [*getattr(found, words), *more])
        return found

    def error(self, message: str) -> NoReturn:
        # A mistyped option often explains the missing one.
        unknown = [text for text in self._given if self._is_unknown(text)] if "required" in message else []
        also = f"{self._unrecognized(unknown)}; " if unknown else ""
        end = "" if message.endswith("?") else ";"
        raise CommandLineError(f"command line: {also}{message}{end} {self.prog} --help lists the arguments.")

    def _unrecognized(self, arguments: Sequence[str]) -> str:
        """The line of arguments that no option takes, with the nearest options."""
        names = [text.partition("=")[0] for text in arguments if text.startswith("-")]
        near = "".join(did_you_mean(name, self._option_string_actions) for name in names)
        return f"unrecognized arguments: {' '.join(arguments)}{'.' if near else ''}{near}"

    def _is_unknown(self, text: str) -> bool:
        name = text.partition("=")[0]
        looks_like_one = re.match("--?[A-Za-z]", name)
        return bool(looks_like_one) and not any(
            known.startswith(name) for known in self._option_string_actions
        )


def started_as(verb: str) -> str:
    """How the user started a command: as ``nds VERB``, or by its script in tools/."""
    script = Path(sys.argv[0])
    return f"python {script}" if script.parent.name == "tools" and script.suffix == ".py" else f"nds {verb}"


def documented_parser(doc: str | None, verb: str = "", more: str = "") -> Parser:
    """A parser whose help is a command's docstring: the first paragraph above the options, the rest below.

    Args:
        doc: the command's ``__doc__``; its examples read ``nds VERB ...``.
        verb: of ``nds``; a script has none.
        more: added below the options.
    """
    program = started_as(verb) if verb else None
    text = (doc or "").replace(f"    nds {verb} ", f"    {program} ") if verb else doc or ""
    description, _, rest = text.partition("\n\n")
    return Parser(
        prog=program,
        description=description,
        epilog=f"{rest.rstrip()}\n{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(
    parser: argparse._ActionsContainer,
    cls: type[Settings],
    names: Collection[str] | None = None,
    *,
    optional: bool = False,
) -> None:
    """Add the options of a step's settings.

    Args:
        parser: or a group of one.
        cls: the settings.
        names: of those to add; all by default.
        optional: leave what is not given as None, so that :func:`settings_from` can tell.
    """
    for item in settings_of(cls):
        if names is not None and item.name not in names:
            continue
        default = to_plain(item, item.default)
        shown = "all" if item.default is None else " ".join(default) if item.kind is tuple else default
        kwargs: dict[str, Any] = {"default": None if optional else default}
        if item.kind is bool:
            kwargs["action"] = argparse.BooleanOptionalAction
        elif item.kind is tuple:
            kwargs |= {"nargs": "+", "metavar": "NAME"}
        else:
            kwargs["type"] = item.kind
            kwargs["metavar"] = "{" + ",".join(item.choices) + "}" if item.choices else None
        text = item.help.replace("%", "%%") + (f" (default: {shown})" if shown != "" else "")
        parser.add_argument(item.flag, help=text, **kwargs)


def settings_from(args: argparse.Namespace, cls: type[S], **fixed: Any) -> S:
    """The settings of a step from parsed options; those that are None, or no option, keep their default.

    Args:
        args: what :func:`add_settings` added, parsed.
        cls: the settings.
        fixed: settings with another origin.

    Raises:
        NDSError: a value that its setting refuses.
    """
    given = {}
    for item in settings_of(cls):
        if getattr(args, item.name, None) is not None:
            given[item.name] = from_plain(item, getattr(args, item.name))
            item.check(given[item.name], item.flag)  # the class itself would name the field
    return cls(**{**given, **fixed})


def file_to_write(path: str, ending: str, option: str = "--output") -> Path:
    """The file that an option names.

    Raises:
        NDSError: it has another ending, by which other tools would not find or not read it.
    """
    if not path.endswith(ending):
        raise CommandLineError(f"command line: {option} must end in {ending}, got {path!r}.")
    return Path(path)


def add_device_arguments(parser: argparse._ActionsContainer) -> None:
    """Add what reads images and where networks run."""
    parser.add_argument("--num-workers", type=int, default=2, help="processes that read images (default: 2)")
    add_device_argument(parser)


def add_device_argument(parser: argparse._ActionsContainer) -> None:
    """Add where networks run."""
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
