"""MATLAB files of lists and labels, through scipy, which alone would trust what a file says of itself.

A damaged or hostile file of a few bytes may declare a thousand million cells (scipy makes room for
all of them), nest cells until the stack of the process ends, or name types that scipy looks up beyond
the end of its tables. So the layout is walked through first; scipy only sees files that are sound.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15  # data types of the format's level 5
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_TEXT = {1, 2, 4, 16, 17, 18}
_CELL, _STRUCT, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 4, 6, 15  # classes of arrays
_COMPLEX = 0x800
_HEADER = 128
_MAX_DEPTH = 8  # the published files need 2
_MAX_CELLS = 10_000_000
_MAX_BYTES = 1 << 28  # of one variable, decompressed


def load_mat(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Some variables of a MATLAB 5 file, as scipy gives them, raveled.

    Raises:
        NDSError: missing, cut short, no such file, a variable that it lacks, or one that is no array.
    """
    from scipy.io import loadmat

    try:
        with open(path, "rb") as file:
            _check(file.read())
        found = loadmat(path, variable_names=list(names))
    except FileNotFoundError:
        raise NDSError(f"annotation file not found: {os.fspath(path)}.") from None
    except OSError as error:
        raise NDSError(f"cannot read {os.fspath(path)}: {error.strerror or error}.") from None
    except NDSError as error:
        raise NDSError(f"{os.fspath(path)}: {error}") from None
    # scipy's reader says what is wrong with a file by whatever exception its parts raise.
    except Exception as error:
        raise NDSError(
            f"{os.fspath(path)} is damaged or cut short ({type(error).__name__}: {error}): download it again."
        ) from None
    for name in names:
        if not isinstance(found.get(name), np.ndarray):
            have = (
                ", ".join(n for n in sorted(found) if not n.startswith("__")) or "none of the expected ones"
            )
            raise NDSError(f"{os.fspath(path)} has no variable {name!r}; it has {have}: is it another file?")
    return {name: found[name].ravel() for name in names}


def texts(values: npt.NDArray[Any], path: str | os.PathLike[str], what: str) -> list[str]:
    """A cell array of texts as a list.

    Raises:
        NDSError: one is no text.
    """
    found = []
    for i, cell in enumerate(values):
        value = cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell
        if not isinstance(value, str):
            raise NDSError(
                f"{os.fspath(path)}: entry {i + 1} of {what} must be text, got {_short(value)}: is it another file?"
            )
        found.append(value)
    return found


def whole_numbers(values: npt.NDArray[Any], path: str | os.PathLike[str], what: str) -> npt.NDArray[np.int64]:
    """Numbers, one by one in cells or in one array, as int64.

    Raises:
        NDSError: one is no whole number.
    """
    if values.dtype == object:
        cells = [cell.item() if isinstance(cell, np.ndarray) and cell.size == 1 else cell for cell in values]
    else:
        cells = values.tolist()
    for i, value in enumerate(cells):
        if not isinstance(value, (int, float)) or not float(value).is_integer() or abs(value) > 1 << 53:
            raise NDSError(
                f"{os.fspath(path)}: entry {i + 1} of {what} must be a whole number, got {_short(value)}."
            )
    return np.array(cells, dtype=np.int64)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _check(data: bytes) -> None:
    """Raise the error of a file that is no MATLAB 5 file, or that scipy would read beyond its bounds."""
    if len(data) == 0:
        raise NDSError("the file is empty (0 bytes): download it again.")
    if len(data) < _HEADER or data[126:128] != b"IM":
        raise NDSError("not a MATLAB 5 file (little-endian, version 5 to 7): download it again.")
    for kind, start, end in _elements(data, _HEADER, len(data)):
        inner, first, last = data, start, end
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            inner = unpacker.decompress(data[start:end], _MAX_BYTES)
            if unpacker.unconsumed_tail:
                raise NDSError(f"a variable takes more than {_MAX_BYTES} bytes: this is no list of images.")
            if not unpacker.eof:
                raise NDSError("cut short: a compressed variable does not end: download it again.")
            kind, first, last = next(_elements(inner, 0, len(inner)), (0, 0, 0))
        if kind != _MATRIX:
            raise _damaged(f"element of type {kind} in the place of a variable")
        _check_matrix(inner, first, last, 0)


def _check_matrix(data: bytes, start: int, end: int, depth: int) -> None:
    """Cells, structs, texts and real numbers, laid out as they must be, all the way down."""
    if depth > _MAX_DEPTH:
        raise NDSError(f"cells are nested more than {_MAX_DEPTH} deep: this is no list of images.")
    elements = list(_elements(data, start, end))
    if depth and not elements:
        return  # how an empty cell is written
    kinds = [kind for kind, _, _ in elements[:3]]
    if kinds != [_UINT32, _INT32, _INT8] or elements[0][2] - elements[0][1] != 8:
        raise _damaged(f"an array begins with elements of types {kinds}")
    flags = int.from_bytes(data[elements[0][1] : elements[0][1] + 4], "little")
    count = _count(data, *elements[1][1:])
    kind, content = flags & 0xFF, elements[3:]
    if kind in (_CELL, _STRUCT):
        if kind == _STRUCT:
            count *= _fields(data, content[:2])
            content = content[2:]
        if len(content) != count or any(inner != _MATRIX for inner, _, _ in content):
            raise _damaged(f"{len(content)} arrays within an array of {count}")
        for _, first, last in content:
            _check_matrix(data, first, last, depth + 1)
        return
    numeric = _FIRST_NUMERIC <= kind <= _LAST_NUMERIC and not flags & _COMPLEX
    if not (numeric or kind == _CHAR):
        raise NDSError(f"an array of class {kind}, expected cells, structs, texts or real numbers.")
    if len(content) != 1 or content[0][0] not in (_NUMBERS if numeric else _TEXT):
        raise _damaged(
            f"an array of class {kind} holds elements of types {[inner for inner, _, _ in content]}"
        )


def _count(data: bytes, start: int, end: int) -> int:
    """Entries of an array by its sides."""
    sides = struct.unpack(f"<{(end - start) // 4}i", data[start : end - (end - start) % 4])
    if not 1 <= len(sides) <= 8 or min(sides) < 0 or math.prod(sides) > _MAX_CELLS:
        raise NDSError(
            f"an array of {' x '.join(map(str, sides[:8]))} entries: expected at most {_MAX_CELLS}."
        )
    return math.prod(sides)


def _fields(data: bytes, elements: Sequence[tuple[int, int, int]]) -> int:
    """Number of fields of a struct, by the length of a name and all names."""
    if [kind for kind, _, _ in elements] != [_INT32, _INT8] or elements[0][2] - elements[0][1] != 4:
        raise _damaged("a struct without names of fields")
    length = int.from_bytes(data[elements[0][1] : elements[0][2]], "little", signed=True)
    names = elements[1][2] - elements[1][1]
    if not 1 <= length <= 1024 or names % length:
        raise _damaged(f"names of fields of {length} bytes in {names} bytes")
    return names // length


def _damaged(what: str) -> NDSError:
    return NDSError(f"damaged ({what}): download it again.")


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, first and last byte of the elements between two places; small ones hold their bytes in the tag."""
    while start + 8 <= end:
        kind, size = struct.unpack_from("<II", data, start)
        if kind >> 16:
            if kind >> 16 > 4:
                raise _damaged(f"a small element of {kind >> 16} bytes")
            yield kind & 0xFFFF, start + 4, start + 4 + (kind >> 16)
            start += 8
            continue
        begin, stop = start + 8, start + 8 + size
        if stop > end:
            raise NDSError(f"cut short: {stop - end} bytes are missing at least: download it again.")
        yield kind, begin, stop
        start = stop if kind == _COMPRESSED else stop + -size % 8
