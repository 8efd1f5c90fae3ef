"""Pickles of arrays (Detectron2's model zoo, Downsampled ImageNet) or of numbers, read without executing anything.

It is the standard library's unpickler in Python, not the one in C: that one allocates a table as large as
the largest number that a pickle gives a memo, so that eight bytes ask for 32 GB. An array is one instruction,
so nothing is lost.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
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
_CORES = ("numpy.core", "numpy._core")  # numpy moved its functions between its releases


class _Type:
    """A numpy type without objects, by what its pickle says of it.

    numpy's own would take a stranger's state, by which a type of objects says that it holds none: bytes of the file
    would then be pointers.
    """

    names: ClassVar[re.Pattern[str]] = re.compile(r"[biufcV]\d{1,9}|[SU]\d{0,9}")

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not self.names.fullmatch(name):
            raise _RefusedError(f"the numpy type {name!r:.40}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, order, of, names, fields, size, *_ = state
        if self.dtype.kind == "V" and names is not None:
            kinds, offsets = zip(*(fields[name][:2] for name in names))
            formats = [_dtype(kind) for kind in kinds]
            form = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
            self.dtype = np.dtype(form)  # type: ignore[call-overload]
        elif self.dtype.kind == "V" and of is not None:
            self.dtype = np.dtype((_dtype(of[0]), of[1]))
        elif order not in ("<", ">", "|"):
            raise _RefusedError("an unknown byte order")
        else:
            self.dtype = self.dtype.newbyteorder(order)


def _dtype(kind: object) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise _RefusedError("an array or number of no numpy type")
    return kind.dtype


def _empty_array(kind: object, shape: tuple[int, ...], _: bytes | str) -> npt.NDArray[Any]:
    """What numpy's pickles make first; what follows in the pickle fills it."""
    if kind is not _ARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array that starts as {kind!r} of shape {shape!r}")
    return np.empty(0, np.int8)


def _array_state(state: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], bool, bytes]:
    """The state of an array, with numpy's type; its bytes are held against its shape."""
    version, shape, kind, by_columns, data = state
    dtype, data = _dtype(kind), _bytes(data)
    # An array of a type that is itself an array has no form in numpy.
    if dtype.subdtype or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for an array of {dtype} of shape {shape!r:.40}")
    return version, shape, dtype, bool(by_columns), data


def _array_scalar(kind: Any, data: Any) -> Any:
    dtype, data = _dtype(kind), _bytes(data)
    if len(data) != dtype.itemsize:
        raise pickle.UnpicklingError(f"{len(data)} bytes for a number of {dtype}")
    return np.ndarray((), dtype, data)[()]


def _bytes(data: Any) -> bytes:
    """The bytes of an array, which Python 2 has spelt as text; not the list of an array of objects."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes):
        raise _RefusedError(f"numbers as a {type(data).__name__}")
    return data


def _from_buffer(data: Any, kind: Any, *shape_and_order: Any) -> Any:
    read: Any = np.zeros(1).__reduce_ex__(5)[0]
    return read(data, _dtype(kind), *shape_and_order)


class _ArrayUnpickler(_Unpickler):
    """Arrays, numbers, text and containers. How an array pickles itself tells where numpy's functions are."""

    names: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _ARRAY,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in _CORES},
        **{(f"{core}.multiarray", "scalar"): _array_scalar for core in _CORES},
        **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
    }
    with_state: ClassVar[tuple[type, ...]] = (np.ndarray, _Type, OrderedDict)

    def load_build(self) -> None:
        if isinstance(self.stack[-2], np.ndarray):
            self.stack[-1] = _array_state(self.stack[-1])
        super().load_build()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }


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

_OPERATIONS = (
    *("PROTO", "FRAME", "MARK", "STOP", "POP", "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "GLOBAL", "STACK_GLOBAL"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "REDUCE", "BUILD"),
)


class _NumberType(_Type):
    """A numpy type of numbers."""

    names: ClassVar[re.Pattern[str]] = re.compile("[iu][1248]|f[248]")


def _scalar(kind: Any, data: Any) -> float:
    return float(_array_scalar(kind, data))


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
