"""The one exception type that a user's mistake or bad input raises.

May import: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches


class NDSError(ValueError):
    """Bad input: one line that says what, where, expected, got and what to do.

    The command line tools print the line and exit with status 2, without a traceback. A kind of error
    that a script may want to tell from others is a subclass with a ``code``; codes stay, wording may
    change. A class, since loader processes hand on the class of an error and its text alone.
    """

    code = ""


class UnknownNameError(NDSError):
    """A name that no registry knows."""

    code = "unknown-name"


class CommandLineError(NDSError):
    """An unknown, missing or malformed argument of a command."""

    code = "command-line"


class MissingFileError(NDSError):
    """A file that is not there."""

    code = "missing-file"


class DamagedFileError(NDSError):
    """A file that is cut short, malformed, or not of the kind or version that is read here."""

    code = "damaged-file"


class CannotWriteError(NDSError):
    """A file or folder that cannot be written: a full disk, or a lack of permission."""

    code = "cannot-write"


class NoLocksError(CannotWriteError):
    """A file system without file locks."""

    code = "no-locks"


class MissingPackageError(NDSError):
    """An optional package that is not installed."""

    code = "missing-package"


_FEW = 15  # names that a line can list


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str = "") -> UnknownNameError:
    """The error for a name that no registry knows; lists the known ones, of many only the nearest.

    Args:
        kind: of the name, as the user calls it.
        name: what was given.
        known: all names.
        listing: what lists them all where they are many, such as a command.
    """
    names = sorted(known)
    if len(names) <= _FEW:
        others = f"Known: {', '.join(names) or 'none'}."
    elif listing:
        others = f"{listing} lists all {len(names)}."
    else:
        near = _nearest(name, names, 5, cutoff=0.0)
        others = f"Known, the nearest first: {', '.join(near)}, ... ({len(names)} in all)."
    return UnknownNameError(f"unknown {kind} {name!r}.{did_you_mean(name, names)} {others}")


def few(names: Iterable[object], most: int = 5) -> str:
    """``a, b, ... (7 in all)``: the first names, and how many there are where some are left out."""
    listed = [str(name) for name in names]
    rest = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest if listed else "none"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'this' or 'that'?`` of the nearest known names, or nothing."""
    near = _nearest(name, list(known), 3)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _nearest(name: str, names: Sequence[str], count: int, cutoff: float = 0.6) -> list[str]:
    """Those that differ least, whatever the case of their letters."""
    by_letters: dict[str, list[str]] = {}
    for known in names:
        by_letters.setdefault(known.casefold(), []).append(known)
    found = get_close_matches(name.casefold(), list(by_letters), n=count, cutoff=cutoff)
    return [known for letters in found for known in by_letters[letters]][:count]


def one_line(error: NDSError) -> str:
    """The message of an error, on one line.

    torch's loader raises a worker's error again with the worker's whole traceback as its text; of
    that only the message is left.
    """
    text = str(error)
    if "Traceback (most recent call last)" in text:
        names = "|".join(re.escape(f"{kind.__module__}.{kind.__qualname__}") for kind in kinds(NDSError))
        found = list(re.finditer(rf"^(?:{names}): ", text, re.MULTILINE))
        text = text[found[-1].end() :] if found else text.strip().splitlines()[-1]
    return " ".join(text.split())


def kinds(kind: type[NDSError]) -> Iterator[type[NDSError]]:
    """A kind of error and all narrower ones that have been imported."""
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds(narrower)
