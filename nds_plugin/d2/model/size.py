"""How large a detector is."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.modeling import build_model


def count_parameters(cfg: CN) -> int:
    """Numbers in the detector of fine-tuning."""
    small = cfg.clone()
    small.defrost()
    small.MODEL.DEVICE = "cpu"
    return sum(p.numel() for p in build_model(small).parameters())
