"""The narrow ResNet-18 with FPN."""

from __future__ import annotations

import pytest
from detectron2.layers import get_norm
from detectron2.modeling import build_model
from tiny_detector import tiny_config

from nds_plugin.d2.model.thin_resnet import build_thin_resnet
from nds_plugin.errors import NDSError


def test_the_thin_backbone_has_the_channels_and_strides_of_its_config():
    backbone = build_model(tiny_config(3)).backbone
    assert [backbone.bottom_up.output_shape()[f"res{i}"].channels for i in range(2, 6)] == [16, 32, 64, 128]
    assert {k: (v.channels, v.stride) for k, v in backbone.output_shape().items()} == {
        f"p{i}": (16, 2**i) for i in range(2, 7)
    }
    assert len(list(backbone.bottom_up.stages[0])) == 2


def test_the_thin_backbone_builds_depth_18_only():
    cfg = tiny_config(3)
    cfg.MODEL.RESNETS.DEPTH = 50
    with pytest.raises(NDSError, match=r"ResNet-18 only: set MODEL.RESNETS.DEPTH 18 \(50\)"):
        build_model(cfg)


def test_channels_below_one_are_refused():
    with pytest.raises(NDSError, match="must be at least 1, got 16 and 0"):
        build_thin_resnet(stem_channels=16, res2_channels=0)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN"])
def test_norm_and_frozen_stages_follow_the_config(norm):
    cfg = tiny_config(3)
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 32  # GN makes 32 groups
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    bottom_up = build_model(cfg).backbone.bottom_up
    assert isinstance(bottom_up.res3[0].conv1.norm, type(get_norm(norm, 64)))
    assert not any(p.requires_grad for p in [*bottom_up.stem.parameters(), *bottom_up.res2.parameters()])
    assert all(p.requires_grad for p in bottom_up.res3.parameters())
