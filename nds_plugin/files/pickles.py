"""Pickles of arrays (Detectron2's model zoo, Downsampled ImageNet) or of numbers, read without executing anything.

It is the standard library's unpickler in Python, not the one in C: that one allocates a table as large as
the largest number that a pickle gives a memo, so that eight bytes ask for 32 GB. An array is one instruction,
so nothing is lost.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import DamagedFileError, MissingFileError, NDSError

_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _RefusedError(Exception):
    """A pickle asks for what is not allowed."""


class _Unpickler(_InPython):  # type: ignore[misc]
    """Knows the names of a table and no other, and gives a state to instances of a few types alone."""

    names: ClassVar[Mapping[tuple[str, str], Any]]
    with_state: ClassVar[tuple[type, ...]]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}"[:100]) from None

    def load_build(self) -> None:
        # Otherwise a pickle could give attributes to the functions of the table.
        if not isinstance(self.stack[-2], self.with_state):
            raise _RefusedError(f"the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_InPython.dispatch,
        pickle.BUILD[0]: load_build,
    }


def _encode(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes: as text in latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r:.40}")
    return text.encode("latin1")


# -- arrays ------------------------------------------------------------------------------------------

_ARRAY = object()  # stands for numpy.ndarray, which a pickle could call to ask for any amount of memory


def _empty_array(kind: object, shape: tuple[int, ...], code: bytes | str) -> npt.NDArray[Any]:
    """What numpy's pickles make first; what follows in the pickle fills it."""
    if kind is not _ARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array that starts as {kind!r} of shape {shape!r}")
    return np.empty(0, code if isinstance(code, str) else code.decode("ascii"))


_CORES = ("numpy.core", "numpy._core")  # numpy moved these functions between its releases


class _ArrayUnpickler(_Unpickler):
    """Arrays, numbers, text and containers. How an array pickles itself tells where numpy's functions are."""

    names: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _ARRAY,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in _CORES},
        **{(f"{core}.multiarray", "scalar"): np.float32(0).__reduce__()[0] for core in _CORES},
        **{(f"{core}.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0] for core in _CORES},
    }
    with_state: ClassVar[tuple[type, ...]] = (np.ndarray, np.dtype, OrderedDict)


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
    except NDSError:  # of open_file
        raise
    except Exception as error:
        raise _broken(name, "pickle of arrays", error) from None


# -- numbers -----------------------------------------------------------------------------------------

_NUMBERS = {f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)} - {"f1"}
_OPERATIONS = (
    *("PROTO", "FRAME", "MARK", "STOP", "POP", "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "GLOBAL", "STACK_GLOBAL"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "REDUCE", "BUILD"),
)


class _NumberType:
    """A numpy type of numbers, by name and byte order; numpy's own would take a stranger's state."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in _NUMBERS:
            raise _RefusedError("a numpy type that is not a number")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|"):
            raise _RefusedError("an unknown byte order")
        self.order = state[1]


def _scalar(kind: Any, data: Any) -> float:
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
        raise _RefusedError("a numpy scalar that is not a number")
    return float(np.frombuffer(data, np.dtype(kind.order + kind.name)).item())


class _Allowed(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise _RefusedError(f"the operation {bytes([code])!r}")


class _NumberUnpickler(_Unpickler):
    """Text, numbers, numpy scalars, tuples, and dicts by text: all that it can make is data, in linear time."""

    names: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _NumberType,
        ("_codecs", "encode"): _encode,
        **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    }
    with_state: ClassVar[tuple[type, ...]] = (_NumberType,)

    def load_dict(self) -> None:
        self._fill({}, self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack.pop(), [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._fill(self.stack.pop(), items)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items without a dict")
        for key, value in zip(items[::2], items[1::2]):
            # A key of another kind could take long to hash: tuples that hold one another.
            if not isinstance(key, str):
                raise _RefusedError(f"a key that is a {type(key).__name__}")
            if key in target:
                raise _RefusedError(f"the key {key[:80]!r} twice")
            target[key] = value
        self.append(target)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Allowed(
        {
            **{code[0]: _Unpickler.dispatch[code[0]] for code in (getattr(pickle, n) for n in _OPERATIONS)},
            pickle.DICT[0]: load_dict,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
        }
    )


def read_numbers(data: bytes, where: str) -> Any:
    """The content of a stranger's pickle of text, numbers, numpy scalars (as floats), tuples and dicts.

    Args:
        data: the pickle. The caller bounds its size; time and memory are linear in it.
        where: what to call it in errors.

    Raises:
        NDSError: the pickle asks for anything else, is cut short, or is no pickle.
    """
    unpickler = _NumberUnpickler(io.BytesIO(data), encoding="latin1")
    try:
        content = unpickler.load()
        if unpickler.stack or unpickler.metastack:
            raise ValueError("more than one value at the end")
        if unpickler.read(1):
            raise _RefusedError("more bytes after its end")
    except _RefusedError as error:
        raise DamagedFileError(
            f"{where} is refused: its pickle asks for {error}, expected only a dict of text and numbers; nothing "
            "of it was executed."
        ) from None
    except Exception as error:
        raise _broken(where, "pickle", error) from None
    return content


def _broken(name: str, kind: str, error: Exception) -> DamagedFileError:
    # A broken pickle raises nearly anything: EOFError, KeyError, IndexError, ValueError, MemoryError...
    cause = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return DamagedFileError(f"{name} is not a whole {kind} ({cause}).")
