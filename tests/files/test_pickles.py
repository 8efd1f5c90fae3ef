"""Pickles of arrays: what numpy writes is read, and nothing that a file says of a numpy type can harm."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import load_arrays

ARRAYS: list[npt.NDArray[Any]] = [
    *(np.arange(6, dtype=kind).reshape(2, 3) for kind in ("<f4", ">f4", ">i8", "u1", "<f2", "c8", "i4")),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.0),
    np.array([True, False]),
    np.array(["a", "bcd"]),
    np.array([b"a", b"bcd"]),
    np.array([(1, 2.0, [3, 4])], [("a", "<i4"), ("b", ">f8"), ("c", "u1", 2)]),
]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_numbers_are_read_as_they_were_written(protocol: int, tmp_path: Path) -> None:
    numbers = [
        np.float32(1.5),
        np.dtype(">f8").type(2),
        np.str_("abc"),
        np.bytes_(b"x"),
        np.bool_(True),
    ]
    content = OrderedDict(arrays=ARRAYS, numbers=numbers, again=ARRAYS[0])
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = load_arrays(path)
    for array, expected in zip(found["arrays"], pickle.loads(path.read_bytes())["arrays"]):
        assert array.dtype == expected.dtype  # numpy swaps bytes as it reads
        assert array.flags.f_contiguous == expected.flags.f_contiguous
        np.testing.assert_array_equal(array, expected)
    assert [(type(number), number) for number in found["numbers"]] == [(type(n), n) for n in numbers]
    assert found["again"] is found["arrays"][0]


def test_an_array_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\xff'\ntb."
    )
    np.testing.assert_array_equal(load_arrays(path), np.array([1, 255], np.uint8))


def _call(function: str, *arguments: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n(" + b"".join(arguments) + b"tR"


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _kind(name: str, fields: bytes = b"NNN", size: int = -1) -> bytes:
    """A numpy type whose flags say that it holds no objects."""
    state = (
        b"(K\x03"
        + _text("|")
        + fields
        + b"J"
        + size.to_bytes(4, "little", signed=True)
        + b"J\xff\xff\xff\xffK\x00tb"
    )
    return _call("numpy.dtype", _text(name), b"\x89\x88") + state


POINTER = _call("_codecs.encode", _text("A" * 8), _text("latin1"))
OBJECT = _kind("O8")
FIELD = b"N(" + _text("a") + b"t}" + _text("a") + b"(" + OBJECT + b"K\x00ts"
EMPTY = _call("numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"(K\x00t", _text("b"))
HARMFUL = {
    "number": _call("numpy.core.multiarray.scalar", OBJECT, POINTER),
    "field": _call("numpy.core.multiarray.scalar", _kind("V8", FIELD, 8), POINTER),
    "array": EMPTY + b"(K\x01(K\x01t" + OBJECT + b"\x89" + POINTER + b"tb",
    "list": EMPTY + b"(K\x01(K\x01t" + _kind("f8") + b"\x89(K\x01ltb",
    "too long": EMPTY + b"(K\x01(K\x09t" + _kind("f8") + b"\x89" + POINTER + b"tb",
    "no such length": EMPTY + b"(K\x01(J\xff\xff\xff\xffJ\xff\xff\xff\xfft" + _kind("f8") + b"\x89" + POINTER + b"tb",
    "buffer": _call("numpy.core.numeric._frombuffer", POINTER, _text("O8"), b"(K\x01t", _text("C")),
    "text": _call("numpy.core.multiarray.scalar", _text("O8"), POINTER),
    "order": _call("numpy.dtype", _text("f8"), b"\x89\x88") + b"(K\x03" + _text("x") + b"NNNK\x00K\x00K\x00tb",
}  # fmt: skip


@pytest.mark.parametrize("what", HARMFUL)
def test_bytes_never_become_pointers(what: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02" + HARMFUL[what] + b".")
    with pytest.raises(NDSError, match=r"evil.pkl is (refused: its pickle asks for|not a whole pickle)"):
        load_arrays(path)
