"""Ids of COCO json: numbers are compared by value, text by text, and never one with the other.

JSON does not keep 1, 1.0 and "1" apart the way that programs do: a file that passed through a table
editor numbers its categories 1 and its annotations "1". Whole floats are the numbers that they are.
Text beside numbers is refused: pycocotools, which reads the same file, finds no match there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError

NUMBERS, TEXT = "whole numbers", "text"
_EXACT = 2**53  # whole floats up to here are one number each


class IdTypes:
    """The types of the ids of one file, taken piece by piece.

    Args:
        path: of the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[str, str] = {}

    def take(self, ids: Sequence[Any], what: str) -> list[Any]:
        """The ids as whole numbers or as text.

        Args:
            ids: at least one, as the file has them.
            what: whose they are; all pieces of one name must be of one type.

        Raises:
            NDSError: mixed types, others than these two, or numbers beyond 64 bits.
        """
        types = set(map(type, ids))
        if types == {str}:
            "".join(ids).encode()  # UnicodeEncodeError: half a character
            self._expect(TEXT, what)
            return list(ids)
        if types != {int}:
            if not all(is_number(i) for i in ids):
                names = ", ".join(sorted({_type_name(i) for i in ids}))
                raise self._mixed(what, names)
            ids = [int(i) for i in ids]
        self._expect(NUMBERS, what)
        if min(ids) < -(2**63) or max(ids) >= 2**63:
            raise NDSError(
                f"{self._path}: {_called(what)} must be numbers of 64 bits, got {max(ids, key=abs)}: number them anew."
            )
        return list(ids)

    def kind(self, what: str) -> str | None:
        """``NUMBERS``, ``TEXT``, or None where there was none of the name."""
        return self._kinds.get(what)

    def _expect(self, kind: str, what: str) -> None:
        if self._kinds.setdefault(what, kind) != kind:
            raise self._mixed(what, "both")

    def _mixed(self, what: str, got: str) -> NDSError:
        return NDSError(f"{self._path}: {_called(what)} must be all whole numbers or all text, got {got}.")


def is_number(value: Any) -> bool:
    """Whether this is a whole number, be it written as 1 or as 1.0."""
    return type(value) is int or (type(value) is float and value.is_integer() and abs(value) <= _EXACT)


def _called(what: str) -> str:
    key, _, owners = what.partition(" of ")
    return f"the {key!r} values of {owners!r}" if owners else f"the ids of {what!r}"


def _type_name(value: Any) -> str:
    if type(value) is float and not is_number(value):
        return f"float ({value!r})"
    return type(value).__name__
