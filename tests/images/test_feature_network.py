"""Loading the network of features: whose weights are read, and which files are refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2_resnets import detectron2_resnet, to_caffe2
from random_resnets import resnet

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import load_arrays
from nds_plugin.images.backbones import load_feature_network
from nds_plugin.images.input_form import IMAGENET, MSRA


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def crops(count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def features_of_fc_input(network: Any, inputs: torch.Tensor) -> torch.Tensor:
    """What the last layer of a torchvision ResNet gets, for RGB inputs normalised ImageNet's way."""
    seen = []
    handle = network.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        network(((inputs.float() / 255 - mean) / std).permute(0, 3, 1, 2))
    handle.remove()
    return seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvision_checkpoints_give_the_features_before_the_last_layer(name: str, tmp_path: Path) -> None:
    original = resnet(name)
    path = tmp_path / "weights.pth"
    torch.save(original.state_dict(), path)
    loaded = load_feature_network(str(path))
    assert loaded.name == name
    assert torch.allclose(loaded(crops()), features_of_fc_input(original, crops()), atol=1e-5)


def test_safetensors_and_wrapped_checkpoints_are_the_same_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = resnet()
    expected = features_of_fc_input(original, crops())
    save_file(original.state_dict(), tmp_path / "shared.safetensors")
    prefixed = {f"module.encoder_q.{k}": v for k, v in original.state_dict().items()}
    torch.save({"state_dict": prefixed, "epoch": 3}, tmp_path / "wrapped.pth.tar")
    for name in ("shared.safetensors", "wrapped.pth.tar"):
        assert torch.allclose(load_feature_network(tmp_path / name)(crops()), expected, atol=1e-5)


def to_detectron2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as Detectron2's own converter of torchvision's checkpoints gives them."""
    renamed = {}
    for name, value in state.items():
        name = name if "layer" in name else f"stem.{name}"
        for i in (1, 2, 3, 4):
            name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[name] = value
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_converted_pickle_is_read_as_torchvisions_network(name: str, protocol: int, tmp_path: Path) -> None:
    original = resnet(name)
    arrays = {k: v.numpy() for k, v in to_detectron2(original.state_dict()).items()}
    path = tmp_path / "R.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = load_feature_network(path)
    assert loaded.form == IMAGENET
    assert torch.allclose(loaded(crops()), features_of_fc_input(original, crops()), atol=1e-5)


def detectron2_features(network: torch.nn.Module, inputs: torch.Tensor, config: Any) -> torch.Tensor:
    """As GeneralizedRCNN prepares its default BGR input."""
    mean, std = torch.tensor(config.MODEL.PIXEL_MEAN), torch.tensor(config.MODEL.PIXEL_STD)
    with torch.no_grad():
        out = network(((inputs.flip(-1).float() - mean) / std).permute(0, 3, 1, 2))
    return out["res5"].mean(dim=(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_a_default_detectron2_checkpoint_gives_detectron2s_own_features(depth: int, tmp_path: Path) -> None:
    network, config = detectron2_resnet(depth, msra=depth >= 50)
    state = {f"backbone.bottom_up.{k}": v for k, v in network.state_dict().items()}
    state["proposal_generator.rpn_head.conv.weight"] = torch.zeros(2)
    torch.save({"model": state, "iteration": 7}, tmp_path / "model_final.pth")
    loaded = load_feature_network(tmp_path / "model_final.pth")
    assert loaded.form == MSRA
    expected = detectron2_features(network, crops(), config)
    assert torch.allclose(loaded(crops()), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
def test_caffe2_names_are_read_as_detectron2_reads_them(tmp_path: Path) -> None:
    network, config = detectron2_resnet(50, msra=True)
    arrays = to_caffe2(network.state_dict())
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res5_2_branch2c_bn_b"} < arrays.keys()
    arrays["conv1_b"] = np.zeros(64, np.float32)
    arrays["fc1000_w"] = np.zeros((1000, 2048), np.float32)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(arrays, 2))
    expected = detectron2_features(network, crops(), config)
    found = load_feature_network(path)(crops())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))

    from detectron2.checkpoint import DetectionCheckpointer

    again, _ = detectron2_resnet(50, msra=True)
    for parameter in again.parameters():
        parameter.data.zero_()
    DetectionCheckpointer(again).load(str(path))
    assert torch.allclose(detectron2_features(again, crops(), config), expected, rtol=1e-3, atol=1e-3)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_pickle_that_would_run_a_command_is_refused(suffix: str, tmp_path: Path) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    content = {"model": {"conv1.weight": np.zeros(3, np.float32), "x": _Harmful(trace)}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
        message = r"is refused: its pickle asks for posix.system, expected only numpy arrays"
    else:
        torch.save(content, path)
        message = "cannot be read without running code from it"
    with pytest.raises(NDSError, match=message) as error:
        load_feature_network(path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "numpy.ndarray.tofile", "torch.load"])
def test_no_other_global_name_is_known_to_the_unpickler(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(".")
    path = tmp_path / "x.pkl"
    text = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)]
    path.write_bytes(b"\x80\x04" + text[0] + text[1] + b"\x93.")
    with pytest.raises(NDSError, match=f"its pickle asks for {name}"):
        load_arrays(path)


def test_a_pickle_changes_none_of_the_functions_that_read_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(NDSError, match="its pickle asks for the state of a function"):
        load_arrays(path)


@pytest.mark.slow
def test_files_that_hold_no_usable_network_are_refused(tmp_path: Path) -> None:
    state = resnet().state_dict()

    def check(content: Any, message: str, name: str = "x.pth") -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(NDSError, match=message) as error:
            load_feature_network(path)
        assert "\n" not in str(error.value)

    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    check(whole.read_bytes()[:5000], "cannot be read without running code from it, or is cut short")
    check(b"not a pickle", "is not a whole pickle of arrays", "x.pkl")
    check(pickle.dumps({"a": np.zeros(9000)})[:5000], "is not a whole pickle of arrays", "x.pkl")
    check(b"1234567890", "is not a whole safetensors file", "x.safetensors")
    check({"a.weight": torch.zeros(3)}, "holds no ResNet: expected a name that ends in one of layer1.0.conv1")
    check([1, 2], "holds a list, expected a dict of weights")
    two = {f"{p}.{k}": v for p in ("left", "right") for k, v in state.items()}
    check(two, r"holds 2 ResNets \(left., right.\): save only one")
    short = {k: v for k, v in state.items() if not k.startswith("layer4")}
    check(short, r"has stages of \(2, 2, 2, 0\) basic blocks; expected one of resnet18")
    check(
        {k: v for k, v in state.items() if k != "bn1.weight"}, "lacks 1 weights of resnet18, first bn1.weight"
    )
    check({**state, "layer1.0.se.fc.weight": torch.ones(1)}, "has 1 weights that resnet18 does not have")
    check({**state, "bn1.bias": torch.full((64,), torch.nan)}, r"x\.pth: bn1.bias holds NaN or an infinity")
    check(b"", "x.pth is empty")
    wide = torchvision.models.wide_resnet50_2(weights=None).state_dict()
    check(wide, r"layer1.0.conv1.weight has shape \(128, 64, 1, 1\), resnet50 has \(64, 64, 1, 1\)")
    with pytest.raises(NDSError, match=r"no such file: /nowhere\.pth"):
        load_feature_network("/nowhere.pth")
    with pytest.raises(NDSError, match="expected either the path of a checkpoint or a state dict"):
        load_feature_network(None)
