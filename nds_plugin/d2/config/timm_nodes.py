"""The config node of a detector on a network of timm, ``cfg.MODEL.TIMM``."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_timm_config(cfg: CN) -> None:
    """Add the defaults of ``cfg.MODEL.TIMM``.

    Beside them the backbone reads MODEL.BACKBONE.FREEZE_AT (stages that do not learn, as Detectron2 counts
    them: 1 up to stride 2, 2 up to stride 4, ...; 0 none) and MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM,
    FUSE_TYPE}.
    """
    cfg.MODEL.TIMM = CN()
    # timm's name of a network that gives maps of several strides.
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # Where training starts: a file with timm's (or, of a ResNet, torchvision's) names,
    # package:efficientnet-lite0, or hub for timm's own; from random weights when empty. MODEL.WEIGHTS, a
    # detector's checkpoint, is loaded over it.
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Batch norm: FrozenBN (statistics and scales stay), BN, or SyncBN (over all GPUs). Other norms stay.
    cfg.MODEL.TIMM.NORM = "FrozenBN"
    # Maps to give, named as Detectron2's ResNets name theirs: res2 has stride 4, res5 stride 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
