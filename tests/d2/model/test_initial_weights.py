"""MODEL.WEIGHTS of every maker's form: into the backbone where it fits, refused in one line where not."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2_resnets import detectron2_resnet, to_caffe2
from safetensors.torch import save_file
from tiny_detector import tiny_config

from nds_plugin.d2 import load_config
from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.d2.model.initial_weights import check_initial_weights, locate, read_initial_weights
from nds_plugin.errors import NDSError
from nds_plugin.images.backbones import load_feature_network

State = dict[str, torch.Tensor]
NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def config() -> CfgNode:
    """A tiny detector around a ResNet-18 of the usual width."""
    cfg = tiny_config(3)
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    return cfg


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    """A ResNet-18 of torchvision whose statistics and scales are no defaults."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=3)
    for name, tensor in network.state_dict().items():
        if "running_var" in name or ("bn" in name and "weight" in name):
            tensor.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            tensor.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def state(original: torch.nn.Module) -> State:
    return dict(original.state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def numbered(state: State) -> State:
    trunk = {name.partition(".")[::2]: value for name, value in state.items() if not name.startswith("fc.")}
    return {f"backbone.{NUMBERS[first]}.{rest}": value for (first, rest), value in trunk.items()}


def others(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


FORMS: dict[str, Any] = {
    "torchvision": lambda s: s,
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "half precision": lambda s: {n: v.half() if v.is_floating_point() else v for n, v in s.items()},
    "MoCo": lambda s: {
        "arch": "resnet18",
        "state_dict": {
            **prefixed(s, "module.encoder_q."),
            **prefixed(others(s), "module.encoder_k."),
            "module.queue": torch.zeros(2, 2),
        },
    },
    "MoCo v3": lambda s: {
        "state_dict": {
            **prefixed(others(s), "module.momentum_encoder."),
            **prefixed(s, "module.base_encoder."),
        },
        "args": argparse.Namespace(epochs=3),
    },
    "DINO": lambda s: {
        "student": prefixed(others(s), "module.backbone."),
        "teacher": prefixed(s, "backbone."),
        "args": argparse.Namespace(arch="resnet18"),
    },
    "Lightning": lambda s: {"pytorch-lightning_version": "2.0", "state_dict": prefixed(s, "model.backbone.")},
    "Lightning, numbered": lambda s: {"pytorch-lightning_version": "2.0", "state_dict": numbered(s)},
    "MMEngine detector": lambda s: {
        "meta": {"epoch": 1},
        "state_dict": {**prefixed(s, "backbone."), "neck.fpn_convs.0.conv.weight": torch.zeros(4)},
    },
    "timm": lambda s: s,
    "timm with an average": lambda s: {"arch": "resnet18", "state_dict": s, "state_dict_ema": others(s)},
}


def written(form: str, state: State, folder: Path) -> str:
    if form == "timm":
        path = str(folder / "model.safetensors")
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        return path
    path = str(folder / "w.pth")
    torch.save(FORMS[form](state), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_backbone_of_a_detector_computes_what_the_network_of_any_maker_did(
    form: str, original: torch.nn.Module, state: State, tmp_path: Path
) -> None:
    if "args" in str(FORMS[form].__code__.co_consts) and not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("this torch reads no file that holds a Namespace")
    path = written(form, state, tmp_path)
    model = build_model(config())
    AtomicCheckpointer(model, str(tmp_path / "out")).resume_or_load(path, resume=False)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.eval().backbone.bottom_up(image)["res5"]
        trunk = torch.nn.Sequential(*list(original.children())[:-2])
        expected = trunk(image)
    tolerance = 1e-2 if form == "half precision" else 1e-5
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    # The feature network of the partition reads the same files by the same rules.
    features = load_feature_network(path).body.state_dict()
    assert torch.equal(
        features["layer3.1.conv2.weight"], state["layer3.1.conv2.weight"].to(features["conv1.weight"])
    ) or (form == "half precision")


@pytest.mark.slow
def test_caffe2s_names_are_loaded_as_detectron2_loads_them(tmp_path: Path) -> None:
    network, cfg = detectron2_resnet(50, msra=True)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(to_caffe2(network.state_dict()), 2))
    ours, stock = (build_resnet_backbone(cfg, ShapeSpec(channels=3)) for _ in range(2))
    AtomicCheckpointer(ours).resume_or_load(str(path), resume=False)
    DetectionCheckpointer(stock).load(str(path))
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_pickle_without_an_author_is_read_by_the_names_in_it(tmp_path: Path) -> None:
    """Detectron2's own names, which its conversion of Caffe2's would garble."""
    network = build_model(config()).state_dict()
    wanted = {name: torch.rand_like(value.float()) for name, value in network.items()}
    arrays = {name: value.numpy() for name, value in wanted.items()}
    for content in (arrays, {"model": arrays}, {"model": arrays, "matching_heuristics": True}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, 2))
        found = read_initial_weights(str(tmp_path / "w.pkl"), network)
        assert found.found == found.expected == 100
        assert not [
            name
            for name, value in wanted.items()
            if not name.endswith("num_batches_tracked") and not torch.equal(found.state[name], value)
        ]


def test_a_detector_of_other_classes_is_loaded_as_detectron2_loads_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    AtomicCheckpointer(build_model(tiny_config(7)), str(tmp_path)).save("model_final")
    path = str(tmp_path / "model_final.pth")
    torch.manual_seed(2)
    ours = build_model(tiny_config(3))
    torch.manual_seed(2)
    stock = build_model(tiny_config(3))
    AtomicCheckpointer(ours, str(tmp_path / "out")).resume_or_load(path, resume=False)
    DetectionCheckpointer(stock).load(path)
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def whole_model(state: State, folder: Path) -> Any:
    return torchvision.models.resnet18(weights=None)


REFUSED: dict[str, tuple[Any, str]] = {
    "deeper": (
        lambda s, _: torchvision.models.resnet34(weights=None).state_dict(),
        r"does not fit: 100 of the backbone's 100 .*80 of its weights have no place in the network",
    ),
    "bottlenecks": (
        lambda s, _: torchvision.models.resnet50(weights=None).state_dict(),
        r"does not fit: \d+ of the backbone's 100 .*looks like torchvision or timm; .* has shape \(64, 64, 1, 1\), in the",
    ),
    "deep stem": (
        lambda s, _: {
            **{n: v for n, v in s.items() if n != "conv1.weight"},
            "conv1.0.weight": torch.zeros(3),
        },
        r"99 of the backbone's 100 .*stem.conv1.weight is not in the file",
    ),
    "another network": (
        lambda s, _: {"state_dict": {"patch_embed.proj.weight": torch.zeros(3)}},
        r"does not fit: 0 of the backbone's 100 .*looks like another network; it holds patch_embed.proj.weight",
    ),
    "two networks": (
        lambda s, _: {**prefixed(s, "left."), **prefixed(s, "right.")},
        r"holds 2 ResNets \(left., right.\): save only one of them",
    ),
    "not a number": (
        lambda s, _: {**s, "bn1.bias": torch.full((64,), torch.nan)},
        r"stem.conv1.norm.bias holds NaN",
    ),
    "whole numbers": (
        lambda s, _: {**s, "bn1.bias": torch.ones(64, dtype=torch.int8)},
        r"stem.conv1.norm.bias is of torch.int8, expected floating point numbers",
    ),
    "numbers of eight bits": (
        lambda s, _: {n: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for n, v in s.items()},
        r"is of torch.float8_e4m3fn, expected floating point numbers",
    ),
    "shapes alone": (
        lambda s, _: {n: v.to("meta") for n, v in s.items()},
        r"no weights where they are looked for; its keys: 'conv1.weight', 'bn1.weight', ",
    ),
    "under a name of one's own": (
        lambda s, _: {"net": s, "epoch": 3},
        r"does not fit: 0 of .*no weights where they are looked for; its keys: 'net', 'epoch'\)",
    ),
    "a whole model": (
        lambda s, _: torchvision.models.resnet18(weights=None),
        r"without running code from it \(its pickle asks for torchvision.models.resnet.ResNet\)",
    ),
    "a list": (lambda s, _: [1, 2], "holds a list, expected a dict of weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_in_one_line(case: str, state: State, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = tmp_path / "w.pth"
    torch.save(make(state, tmp_path), path)
    with pytest.raises(NDSError, match=message) as error:
        check_initial_weights(config(), str(path))
    assert str(error.value).startswith("MODEL.WEIGHTS: ")
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused_in_one_line(state: State, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"stem.conv1.weight": np.zeros(9)}, 2)[:-9])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_bytes(b"<!doctype html>")
    (tmp_path / "pointer.pth").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    )
    network = build_model(config()).state_dict()
    for name, message in {
        "cut.pth": r"or is cut short \(.*\): get it again",
        "empty.pth": "is empty: get the file again",
        "page.pth": "is no checkpoint, it begins with b'<!doctype html>': get it again",
        "pointer.pth": "is no checkpoint, it begins with b'version https://",
        "cut.pkl": "cut.pkl is not a whole pickle of arrays",
        "nowhere.pth": "no such file",
        "": "is a folder, expected a checkpoint file",
    }.items():
        with pytest.raises(NDSError, match=message) as error:
            read_initial_weights(str(tmp_path / name), network)
        assert str(error.value).startswith("MODEL.WEIGHTS: ")
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_weights_are_read_however_a_file_keeps_them(state: State, tmp_path: Path) -> None:
    network = build_model(config()).state_dict()
    sparse = {n: v.to_sparse() if v.dim() == 4 else v for n, v in state.items()}
    torch.save(sparse, tmp_path / "sparse.pth")
    save_file(state, tmp_path / "pytorch_model.bin")
    wanted = state["layer1.0.conv1.weight"]
    for name in ("sparse.pth", "pytorch_model.bin"):
        found = read_initial_weights(str(tmp_path / name), network).state
        assert torch.equal(found["backbone.bottom_up.res2.0.conv1.weight"], wanted), name


class Harmful:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_no_weights_run_code(tmp_path: Path) -> None:
    content = {"model": {"stem.conv1.weight": np.zeros(3, np.float32), "x": Harmful(tmp_path / "trace")}}
    for name in ("evil.pkl", "evil.pyth", "evil.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
        checkpointer = AtomicCheckpointer(build_model(config()), str(tmp_path / "out"))
        with pytest.raises(NDSError):
            checkpointer.resume_or_load(str(tmp_path / name), resume=False)
        assert not (tmp_path / "trace").exists()


def test_a_network_that_expects_other_pixels_is_told_in_one_line(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "w.pth")
    torch.save(state, path)
    cfg = config()
    with caplog.at_level(logging.INFO, logger="nds_plugin"):
        check_initial_weights(cfg, path)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD" in told[0]
    assert "100 of the backbone's 100 weights are in it" in caplog.text
    caplog.clear()
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    with caplog.at_level(logging.INFO, logger="nds_plugin"):
        check_initial_weights(cfg, path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_link_is_read_from_the_cache_and_else_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    cached = tmp_path / "weights" / "R.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"as downloaded")
    # Nothing listens there, as on a machine without a network.
    assert locate("http://127.0.0.1:9/weights/R.pth") == str(cached)
    with pytest.raises(
        NDSError, match=r"MODEL.WEIGHTS http://127.0.0.1:9/weights/S.pth is not in the cache"
    ) as error:
        locate("http://127.0.0.1:9/weights/S.pth")
    assert "\n" not in str(error.value)


def test_the_full_size_configs_take_moco(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "moco.pth.tar")
    network = torchvision.models.resnet50(weights=None).state_dict()
    torch.save({"state_dict": prefixed(network, "module.encoder_q.")}, path)
    cfg = load_config("nds_cityscapes.yaml")
    with caplog.at_level(logging.INFO, logger="nds_plugin"):
        check_initial_weights(cfg, path)
    assert (
        "265 of the backbone's 265 weights are in it (form: MoCo, ResNet under module.encoder_q.*)"
        in caplog.text
    )
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False" in caplog.text
