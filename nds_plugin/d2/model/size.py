"""How large a detector is."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.modeling import build_model

from nds_plugin.d2.model.timm_backbone import without_initial_weights


def count_parameters(cfg: CN) -> int:
    """Numbers in the detector of fine-tuning."""
    small = without_initial_weights(cfg).clone()
    small.defrost()
    small.MODEL.DEVICE = "cpu"
    return sum(p.numel() for p in build_model(small).parameters())
