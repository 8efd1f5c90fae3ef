"""Numbers, text and dicts out of a pickle, by an interpreter of our own that can build nothing else.

``pickletools`` cuts the bytes into opcodes; the few that such a file needs are carried out here on plain
Python values. No name is ever looked up and nothing is called: a numpy scalar is known by the names that
numpy gives to it, and its bytes are read as data.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any

from nds_plugin.errors import NDSError

_SCALAR, _DTYPE, _ENCODE = "a numpy scalar", "a numpy dtype", "bytes as text"
# numpy moved its functions between releases; both places name the same thing.
_NAMES = {
    "numpy.core.multiarray scalar": _SCALAR,
    "numpy._core.multiarray scalar": _SCALAR,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
}
_FORMATS = {
    **{"f2": "e", "f4": "f", "f8": "d"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
_PLAIN = {
    *("BINFLOAT", "FLOAT", "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Name:
    """One of ``_NAMES``, as a word without meaning to Python."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _DType:
    """A numpy number type: how to read a scalar's bytes."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class _RefusedError(Exception):
    """The pickle asks for something that a dict of numbers does not need."""


def read_numbers(data: bytes, where: str) -> Any:
    """The content of a pickle of text, numbers, numpy scalars (as floats), tuples and dicts.

    Args:
        data: the pickle. The caller bounds its size; time and memory are linear in it.
        where: what to call it in errors.

    Raises:
        NDSError: the pickle asks for anything else, is cut short, or is no pickle.
    """
    machine = _Machine()
    end = 0
    try:
        for opcode, argument, position in pickletools.genops(data):
            machine.step(opcode.name, argument)
            end = (position or 0) + 1
        content = machine.result()
    except _RefusedError as error:
        raise NDSError(
            f"{where} is refused: it asks for {error}, expected a pickled dict of text and numbers only; nothing "
            "of it was executed."
        ) from None
    except Exception as error:
        # What pickletools or a half-built stack raises on broken bytes is nearly anything.
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise NDSError(f"{where} is not a whole pickle ({cause}).") from None
    if end != len(data):
        raise NDSError(f"{where} is refused: {len(data) - end} bytes follow its end.")
    return content


class _Machine:
    """A stack and a memo, as pickle has them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._done = False

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _PLAIN:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(self._take(_TUPLES[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"the operation {name}")

    def result(self) -> Any:
        """What is left at the end."""
        if not self._done or len(self._stack) != 1:
            raise ValueError("the stack does not hold one value at the end")
        return self._stack[0]

    def _take(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise ValueError("the stack is empty")
        taken = self._stack[len(self._stack) - count :]
        if any(value is _MARK for value in taken):
            raise ValueError("a mark is where a value should be")
        del self._stack[len(self._stack) - count :]
        return taken

    def _to_mark(self) -> list[Any]:
        # From the end, so that the whole pickle takes linear time.
        start = next(i for i in range(len(self._stack) - 1, -1, -1) if self._stack[i] is _MARK)
        taken = self._stack[start + 1 :]
        del self._stack[start:]
        return taken

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _stop(self, _: Any) -> None:
        self._done = True

    def _pop(self, _: Any) -> None:
        self._take(1)

    def _put(self, position: Any) -> None:
        self._memo[int(position)] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _top(self) -> Any:
        (value,) = self._take(1)
        self._stack.append(value)
        return value

    def _get(self, position: Any) -> None:
        self._stack.append(self._memo[int(position)])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _dict(self, _: Any) -> None:
        items = self._to_mark()
        self._stack.append({})
        self._set(items)

    def _setitem(self, _: Any) -> None:
        self._set(self._take(2))

    def _setitems(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items without a dict")
        for key, value in zip(items[::2], items[1::2]):
            # A key of another kind could take long to hash (nested tuples) or hide a name.
            if not isinstance(key, str):
                raise _RefusedError(f"a key that is a {type(key).__name__}")
            if key in target:
                raise _RefusedError(f"the key {key[:80]!r} twice")
            target[key] = value

    def _global(self, argument: Any) -> None:
        if argument not in _NAMES:
            raise _RefusedError(f"the name {argument.replace(' ', '.')[:80]!r}")
        self._stack.append(_Name(_NAMES[argument]))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        # Never written out unseen: tuples that hold one another would grow without bound.
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("a name that is not text")
        self._global(f"{module} {name}")

    def _reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _RefusedError("a call")
        self._stack.append(_CALLS[function.kind](*arguments))

    def _build(self, _: Any) -> None:
        target, state = self._take(2)
        if not isinstance(target, _DType) or not isinstance(state, tuple) or len(state) < 2:
            raise _RefusedError("an object's state")
        if state[1] not in ("<", ">", "|"):
            raise _RefusedError("an unknown byte order")
        target.order = ">" if state[1] == ">" else "<"
        self._stack.append(target)


def _read_scalar(dtype: Any, data: Any) -> float:
    if not isinstance(dtype, _DType) or not isinstance(data, bytes):
        raise _RefusedError("a numpy scalar that is not a number")
    (value,) = struct.unpack(dtype.order + _FORMATS[dtype.code], data)
    return float(value)


def _read_dtype(code: Any, *_: Any) -> _DType:
    if not isinstance(code, str) or code not in _FORMATS:
        raise _RefusedError("a numpy type that is not a number")
    return _DType(code)


def _read_bytes(text: Any, encoding: Any) -> bytes:
    """How pickle protocol 2 spells bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("bytes in an unknown encoding")
    return text.encode("latin1")


_CALLS: dict[str, Callable[..., Any]] = {_SCALAR: _read_scalar, _DTYPE: _read_dtype, _ENCODE: _read_bytes}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "STOP": _Machine._stop,
    "POP": _Machine._pop,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "EMPTY_DICT": _Machine._empty_dict,
    "DICT": _Machine._dict,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
