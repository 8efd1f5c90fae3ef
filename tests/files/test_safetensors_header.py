"""Headers of safetensors files: what a stranger's file claims is checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import write_network
from nds_plugin.files.safetensors_header import MAX_HEADER, check_resnet18_file, resnet18_tensors
from nds_plugin.images.networks import build_network, empty_network


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("header") / "expert.safetensors"
    write_network(path, build_network(4).state_dict(), {"key": "k", "outputs": 4})
    return path


def rewritten(path: Path, target: Path, change: object) -> Path:
    """The file with another header; ``change`` alters the parsed one."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return target


@pytest.mark.parametrize("outputs", [4, 1000])
def test_the_expected_tensors_are_those_of_torchvisions_resnet18(outputs: int) -> None:
    state = empty_network(outputs).state_dict()
    kinds = {"torch.float32": "F32", "torch.int64": "I64"}
    assert resnet18_tensors(outputs) == {k: (kinds[str(v.dtype)], tuple(v.shape)) for k, v in state.items()}


def test_an_expert_that_was_written_is_accepted(expert: Path) -> None:
    check_resnet18_file(expert, 4)


def test_another_number_of_outputs_is_refused(expert: Path) -> None:
    with pytest.raises(NDSError, match=r"tensor 'fc.weight' should be F32 \[5, 512\]"):
        check_resnet18_file(expert, 5)


def test_a_file_cut_short_is_refused(expert: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(expert.read_bytes()[:-1])
    with pytest.raises(NDSError, match="not a complete safetensors file"):
        check_resnet18_file(cut, 4)
    cut.write_bytes(expert.read_bytes()[:1000])
    with pytest.raises(NDSError, match="not a complete safetensors file"):
        check_resnet18_file(cut, 4)


@pytest.mark.parametrize("length", [0, MAX_HEADER + 1, 2**63])
def test_a_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(NDSError, match=f"its header claims {length} bytes"):
        check_resnet18_file(path, 4)


@pytest.mark.parametrize("text", [b"[1, 2]", b"{" * 60_000, b"[" * 60_000, b"\xff\xfe", b"nonsense"])
def test_a_header_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(NDSError, match="not a complete safetensors file"):
        check_resnet18_file(path, 4)


def test_tensors_that_overlap_or_lie_outside_are_refused(expert: Path, tmp_path: Path) -> None:
    def overlap(header: dict) -> None:
        header["bn1.bias"]["data_offsets"] = header["bn1.weight"]["data_offsets"]

    def outside(header: dict) -> None:
        header["fc.bias"]["data_offsets"] = [10**12, 10**12 + 16]

    def reversed_(header: dict) -> None:
        header["fc.bias"]["data_offsets"] = [16, 0]

    for change in (overlap, outside, reversed_):
        with pytest.raises(NDSError, match="not a complete safetensors file"):
            check_resnet18_file(rewritten(expert, tmp_path / "odd.safetensors", change), 4)


def test_missing_and_unknown_tensors_are_refused_by_name(tmp_path: Path) -> None:
    def check(message: str, **change: torch.Tensor) -> None:
        state = {**build_network(4).state_dict(), **change}
        write_network(tmp_path / "x", {k: v for k, v in state.items() if v.numel()}, {"key": "k"})
        with pytest.raises(NDSError, match=message):
            check_resnet18_file(tmp_path / "x", 4)

    message = "1 tensors are missing or unknown for a ResNet-18, first 'conv1.weight'"
    check(message, **{"conv1.weight": torch.zeros(0)})
    check("first 'extra'", extra=torch.zeros(1))


def test_a_tensor_without_offsets_is_refused(expert: Path, tmp_path: Path) -> None:
    for offsets in (None, [1], ["0", "1"], [0.0, 16.0], {"a": 1}):
        path = rewritten(expert, tmp_path / "x", lambda h, o=offsets: h["fc.bias"].update(data_offsets=o))
        with pytest.raises(NDSError, match="not a complete safetensors file"):
            check_resnet18_file(path, 4)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="cannot read .*none: No such file"):
        check_resnet18_file(tmp_path / "none", 4)
