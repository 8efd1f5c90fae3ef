"""A narrow ResNet-18 with FPN, for training on a CPU.

Detectron2's own builder insists on 64 channels for ResNet-18 and 34; the classes that it is
built of do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from nds_plugin.errors import NDSError

NAME = "build_thin_resnet_fpn_backbone"
BLOCKS_PER_STAGE = 2  # ResNet-18
STAGES = 4


def build_thin_resnet(
    in_channels: int = 3,
    stem_channels: int = 32,
    res2_channels: int = 32,
    norm: str = "BN",
    out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    freeze_at: int = 0,
) -> ResNet:
    """ResNet-18 whose stages have 1, 2, 4 and 8 times ``res2_channels`` channels.

    Args:
        in_channels: channels of the image.
        stem_channels: output channels of the stem.
        res2_channels: output channels of the first stage.
        norm: any normalisation that ``detectron2.layers.get_norm`` knows.
        out_features: stages to return, "stem" or "res2" to "res5".
        freeze_at: see ``ResNet.freeze``.
    """
    if stem_channels < 1 or res2_channels < 1:
        raise NDSError(
            "MODEL.RESNETS.STEM_OUT_CHANNELS and RES2_OUT_CHANNELS must be at least 1, got "
            f"{stem_channels} and {res2_channels}."
        )
    stages, channels = [], stem_channels
    for stage in range(STAGES):
        width = res2_channels * 2**stage
        strides = [1 if stage == 0 else 2] + [1] * (BLOCKS_PER_STAGE - 1)
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                BLOCKS_PER_STAGE,
                stride_per_block=strides,
                in_channels=channels,
                out_channels=width,
                norm=norm,
            )
        )
        channels = width
    stem = BasicStem(in_channels=in_channels, out_channels=stem_channels, norm=norm)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)


def build_thin_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME`` for a thin ResNet-18 with FPN.

    Reads MODEL.RESNETS.{STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, NORM, OUT_FEATURES},
    MODEL.BACKBONE.FREEZE_AT and MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}.
    MODEL.RESNETS.DEPTH must be 18.
    """
    if cfg.MODEL.RESNETS.DEPTH != 18:
        raise NDSError(
            f"{NAME} builds ResNet-18 only: set MODEL.RESNETS.DEPTH 18 ({cfg.MODEL.RESNETS.DEPTH})."
        )
    bottom_up = build_thin_resnet(
        in_channels=input_shape.channels,
        stem_channels=cfg.MODEL.RESNETS.STEM_OUT_CHANNELS,
        res2_channels=cfg.MODEL.RESNETS.RES2_OUT_CHANNELS,
        norm=cfg.MODEL.RESNETS.NORM,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


if NAME not in BACKBONE_REGISTRY:  # the module may be imported again under another name
    BACKBONE_REGISTRY.register(build_thin_resnet_fpn_backbone)
