"""Reading the pickled weights that Detectron2's model zoo hands out, without executing anything."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

from nds_plugin.errors import NDSError


def _encode(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes: as text in latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


# numpy moved these functions between its releases; how an array pickles itself tells where they are.
_SCALAR = np.float32(0).__reduce__()[0]
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _RECONSTRUCT
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _SCALAR
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _FROM_BUFFER


class _ArrayUnpickler(pickle.Unpickler):
    """Knows arrays, numbers, text and containers, and no other global name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


class _RefusedError(Exception):
    """A pickle asked for a name that is not allowed."""


def load_arrays(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle that holds only numpy arrays, numbers, text, lists and dicts.

    Raises:
        NDSError: the pickle asks for anything else, is cut short, or is not a pickle.
    """
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise NDSError(
            f"{path} is refused: its pickle asks for {error}, expected only numpy arrays, text and dicts; "
            "convert it to safetensors if you trust it."
        ) from None
    except FileNotFoundError:
        raise NDSError(f"no such file: {path}.") from None
    except Exception as error:
        # A broken pickle raises nearly anything: EOFError, KeyError, IndexError, ValueError, MemoryError...
        raise NDSError(f"{path} is not a whole pickle of arrays ({type(error).__name__}: {error}).") from None
