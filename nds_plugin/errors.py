"""The one exception type that a user's mistake or bad input raises."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NDSError(ValueError):
    """Bad input: one line that says what, where, expected, got and what to do.

    The command line tools print the line and exit with status 2, without a traceback.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> NDSError:
    """The error for a name that no registry knows; lists the known ones, nearest first."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
    return NDSError(f"unknown {kind} {name!r}.{hint} Known: {listed or 'none'}.")
