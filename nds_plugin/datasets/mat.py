"""MATLAB files of lists and labels, through scipy, which alone would trust what a file says of itself.

A damaged or hostile file of a few bytes may declare a thousand million cells (scipy makes room for
all of them) or nest cells until the stack of the process ends. Both are looked for first.
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

_MATRIX, _COMPRESSED, _INT32 = 14, 15, 5  # data types of the format, MATLAB 5 MAT-file, level 5
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
    """Raise the error of a file that is no MATLAB 5 file, or too large or deep inside."""
    if len(data) == 0:
        raise NDSError("the file is empty (0 bytes): download it again.")
    if len(data) < _HEADER or data[126:128] != b"IM":
        raise NDSError("not a MATLAB 5 file (little-endian, version 5 to 7): download it again.")
    for kind, start, end in _elements(data, _HEADER, len(data)):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            inner = unpacker.decompress(data[start:end], _MAX_BYTES)
            if unpacker.unconsumed_tail:
                raise NDSError(f"a variable takes more than {_MAX_BYTES} bytes: this is no list of images.")
            _check_elements(inner, 0, len(inner))
        elif kind == _MATRIX:
            _check_elements(data, start - 8, end)


def _check_elements(data: bytes, first: int, last: int) -> None:
    stack = [(first, last, 0)]
    while stack:
        start, end, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise NDSError(f"cells are nested more than {_MAX_DEPTH} deep: this is no list of images.")
        for kind, begin, stop in _elements(data, start, end):
            if kind == _MATRIX:
                _check_size(data, begin, stop)
                stack.append((begin, stop, depth + 1))


def _check_size(data: bytes, start: int, end: int) -> None:
    """The second element of a matrix are its dimensions."""
    for number, (kind, begin, stop) in enumerate(_elements(data, start, end)):
        if number == 1 and kind == _INT32:
            sides = struct.unpack(f"<{(stop - begin) // 4}i", data[begin : begin + (stop - begin) // 4 * 4])
            if min(sides, default=0) < 0 or math.prod(sides) > _MAX_CELLS:
                raise NDSError(
                    f"an array of {' x '.join(map(str, sides))} entries: expected at most {_MAX_CELLS}."
                )
        if number:
            return


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, first and last byte of the elements between two places; small ones hold their bytes in the tag."""
    while start + 8 <= end:
        kind, size = struct.unpack_from("<II", data, start)
        if kind >> 16:
            yield kind & 0xFFFF, start + 4, start + 4 + min(kind >> 16, 4)
            start += 8
            continue
        begin, stop = start + 8, start + 8 + size
        if stop > end:
            raise NDSError(f"cut short: {stop - end} bytes are missing at least: download it again.")
        yield kind, begin, stop
        start = stop if kind == _COMPRESSED else stop + -size % 8
