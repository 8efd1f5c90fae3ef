"""Reading pickles of arrays (Detectron2's model zoo, Downsampled ImageNet) without executing anything."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import DamagedFileError, MissingFileError


def _encode(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes: as text in latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_ARRAY = object()  # stands for numpy.ndarray, which a pickle could call to ask for any amount of memory


def _empty_array(kind: object, shape: tuple[int, ...], code: bytes | str) -> npt.NDArray[Any]:
    """What numpy's pickles make first; what follows in the pickle fills it."""
    if kind is not _ARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array that starts as {kind!r} of shape {shape!r}")
    return np.empty(0, code if isinstance(code, str) else code.decode("ascii"))


# numpy moved these functions between its releases; how an array pickles itself tells where they are.
_SCALAR = np.float32(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _SCALAR
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _FROM_BUFFER


class _ArrayUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Knows arrays, numbers, text and containers, and no other global name.

    It is the standard library's unpickler in Python, not the one in C: that one allocates a table as
    large as the largest number that a pickle gives a memo, so that eight bytes ask for 32 GB. An
    array is one instruction, so nothing is lost.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


class _RefusedError(Exception):
    """A pickle asked for a name that is not allowed."""


def load_arrays(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle that holds only numpy arrays, numbers, text, lists and dicts.

    Text and arrays of Python 2 are read, too.

    Raises:
        NDSError: the pickle asks for anything else, is cut short, or is not a pickle.
    """
    return read_arrays(lambda: open(path, "rb"), os.fspath(path))


def read_arrays(open_file: Callable[[], IO[bytes]], name: str) -> Any:
    """:func:`load_arrays` of a file that is opened otherwise, for example inside of an archive.

    Args:
        open_file: opens it.
        name: what it is called in messages.
    """
    try:
        with open_file() as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise DamagedFileError(
            f"{name} is refused: its pickle asks for {error}, expected only numpy arrays, text and dicts; "
            "convert it to safetensors if you trust it."
        ) from None
    except FileNotFoundError:
        raise MissingFileError(f"no such file: {name}.") from None
    except Exception as error:
        # A broken pickle raises nearly anything: EOFError, KeyError, IndexError, ValueError, MemoryError...
        raise DamagedFileError(
            f"{name} is not a whole pickle of arrays ({type(error).__name__}: {error})."
        ) from None
