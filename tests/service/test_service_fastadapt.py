"""Scores of the authors' client: read without executing anything, and as good as our own."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import pickletools
import struct
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.service import set_limits
from nds_plugin.service.fastadapt.scores import (
    convert,
    expert_name,
    read_percentages,
    to_percentages,
)
from nds_plugin.service.server.settings import Limits
from nds_plugin.service.set_limits import MAX_BODY, MAX_EXPERTS

HASH = "0123456789abcdef" * 4
OTHER = "f" * 64


def _z(count: int = 6) -> dict[str, float]:
    return {expert_name(HASH, k): round(100 * (0.3 + 0.1 * k), 4) for k in range(count)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_gives_the_clusters_scores_as_shares(protocol: int) -> None:
    assert convert(pickle.dumps(_z(), protocol), HASH, range(6)) == {
        "clusters": list(range(6)),
        "z": pytest.approx([0.3 + 0.1 * k for k in range(6)], abs=1e-9),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8, int])
def test_numpy_scalars_are_read_as_data(protocol: int, kind: Any) -> None:
    values = {name: kind(value) for name, value in _z().items()}
    found = read_percentages(pickle.dumps(values, protocol))
    assert found == {name: float(value) for name, value in values.items()}


def test_scalars_of_the_numpy_before_the_second_are_read() -> None:
    new = pickle.dumps({expert_name(HASH, 0): np.float64(12.5)}, protocol=2)
    assert b"numpy._core" in new or b"numpy.core" in new
    for module in (b"numpy.core", b"numpy._core"):
        old = new.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
        assert read_percentages(old) == {expert_name(HASH, 0): 12.5}


def test_pickles_of_python_2_are_read() -> None:
    name = expert_name(HASH, 0).encode()
    data = b"\x80\x02}q\x00U" + bytes([len(name)]) + name + b"q\x01G" + struct.pack(">d", 71.25) + b"s."
    assert read_percentages(data) == {name.decode(): 71.25}


class _Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _hostile(tmp_path: Path) -> dict[str, bytes]:
    name = expert_name(HASH, 0)
    mark = tmp_path / "executed"
    deep = b"\x80\x04" + b"(" * 30_000 + b"t" * 30_000 + b"."
    # Tuples of tuples, each twice in the next: a printed form of 2**4000 letters.
    grown = b"\x80\x04)" + b"".join(b"\x94h" + bytes([i % 250]) + b"\x86" for i in range(250)) + b"\x93."
    return {
        "os.system": pickle.dumps({name: _Evil(os.system, f"touch {mark}")}),
        "eval": pickle.dumps({name: _Evil(builtins.eval, "1")}, protocol=0),
        "a path opened": pickle.dumps(_Evil(open, str(mark), "w")),
        "getattr": pickle.dumps(_Evil(getattr, "a", "upper"), protocol=2),
        "an array": pickle.dumps({name: np.zeros(3)}),
        "an object array": pickle.dumps({name: np.array([{}], dtype=object)}),
        "a class of ours": pickle.dumps({name: OrderedDict(a=1)}),
        "a numpy load": b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        "an extension code": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x04\x8c\x01aQ.",
        "an instance": b"(i__main__\nUser\n.",
        "NEWOBJ": b"\x80\x02cnumpy\ndtype\n)\x81.",
        "a state for a dict": b"\x80\x02}}b.",
        "a state for a function": b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
        "a list": pickle.dumps([1.0]),
        "an empty dict": pickle.dumps({}),
        "a nested dict": pickle.dumps({name: {"z": 1.0}}),
        "text": pickle.dumps({name: "71"}),
        "a truth value": pickle.dumps({name: True}),
        "None": pickle.dumps({name: None}),
        "NaN": pickle.dumps({name: float("nan")}),
        "infinity": pickle.dumps({name: float("inf")}),
        "numpy NaN": pickle.dumps({name: np.float64("nan")}),
        "more than 100": pickle.dumps({name: 100.1}),
        "a huge number": pickle.dumps({name: 10**500}),
        "a negative number": pickle.dumps({name: -1}),
        "a number as key": pickle.dumps({1: 2.0}),
        "a tuple as key": pickle.dumps({(1, 2): 2.0}),
        "a complex number": pickle.dumps({name: np.complex128(1)}),
        "a date": pickle.dumps({name: np.datetime64("2019-01-01")}),
        "a key twice": b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.",
        "a recursive dict": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        "nothing": b"",
        "json": b'{"a": 1}',
        "a cut pickle": pickle.dumps(_z())[:-20],
        "bytes after the end": pickle.dumps(_z()) + b"x",
        "a second pickle": pickle.dumps(_z()) * 2,
        "no value": b"\x80\x04.",
        "two values": b"\x80\x04}}.",
        "a missing memo": b"\x80\x04h\x05.",
        "a mark left over": b"\x80\x04(.",
        "a length beyond the file": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
        "a long length": b"\x80\x04\x8b" + struct.pack("<I", 1 << 30) + b"\x01.",
        "deep nesting": deep,
        "tuples that grow": grown,
        "many marks": b"\x80\x04" + b"(t" * 250_000 + b".",
        "too many bytes": pickle.dumps({"a" * MAX_BODY: 1.0}),
        "dtype of another kind": b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        "a scalar of 1 byte": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R\x86R.",
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_scores_of_the_largest_set_fit_into_a_request(protocol: int) -> None:
    """As the authors' client pickles numpy's numbers; as JSON, they fit into the body of a search."""
    many = {name: np.float64(value % 100 + 1 / 3) for value, name in enumerate(_z(MAX_EXPERTS))}
    found = convert(pickle.dumps(many, protocol), HASH, range(MAX_EXPERTS))
    body = json.dumps(
        {"scores": {"clusters": found["clusters"], "z": [-z * 1e-5 for z in found["z"]]}}, indent=1
    )
    assert len(found["z"]) == MAX_EXPERTS
    assert len(body) < Limits().body_bytes == MAX_BODY


def test_the_page_reads_as_large_a_pickle() -> None:
    script = Path(set_limits.__file__).with_name("page") / "scores.js"
    assert f"const MAX_PICKLE = {MAX_BODY // 1024} * 1024;" in script.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(_hostile(Path("."))))
def test_a_hostile_pickle_is_refused_in_one_line_and_at_once(name: str, tmp_path: Path) -> None:
    data = _hostile(tmp_path)[name]
    start = time.perf_counter()
    with pytest.raises(NDSError, match=r"z\.pickle") as error:
        read_percentages(data)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert not (tmp_path / "executed").exists()


def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(0)
    whole = pickle.dumps({name: np.float64(value) for name, value in _z().items()})
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            read_percentages(bytes(data))
        except NDSError:
            continue


def test_every_opcode_alone_is_read_or_refused() -> None:
    for opcode in pickletools.opcodes:
        for tail in (b"", b"\x00" * 8, b"1\n", b"a\nb\n"):
            with pytest.raises(NDSError):
                read_percentages(opcode.code.encode("latin1") + tail + b".")


def test_scores_of_another_expert_set_are_refused_by_their_names() -> None:
    with pytest.raises(NDSError, match="another expert set: expected ffffffffffffffff, got 0123456789abcdef"):
        convert(pickle.dumps(_z()), OTHER, range(6))


def test_experts_that_are_missing_or_unknown_are_named() -> None:
    with pytest.raises(NDSError, match="missing 6, 7, unknown none"):
        convert(pickle.dumps(_z()), HASH, range(8))
    with pytest.raises(NDSError, match="missing none, unknown 4, 5"):
        convert(pickle.dumps(_z()), HASH, range(4))


def test_other_files_in_the_folder_of_experts_are_named() -> None:
    with pytest.raises(NDSError, match=r"'manifest\.json' is not a file of the experts"):
        convert(pickle.dumps({**_z(), "manifest.json": 25.0}), HASH, range(6))


def test_converting_what_the_other_client_would_write_gives_the_scores_back() -> None:
    z = np.random.default_rng(1).integers(0, 401, 50) / 400  # shares of 100 images in four rotations
    data = pickle.dumps(to_percentages(range(50), z.tolist(), HASH))
    assert convert(data, HASH, range(50))["z"] == pytest.approx(z.tolist(), abs=1e-12)
