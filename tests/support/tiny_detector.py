"""A Mask R-CNN small enough to train in a test, and boxes and masks drawn for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BitMasks, Boxes, Instances

import nds_plugin.d2.model.roi_heads
import nds_plugin.d2.model.thin_resnet  # noqa: F401  (both register what the config names)

SIZE = 96


def tiny_config(num_classes: int, label_spaces: Any = (), heads: str = "NDSROIHeads") -> CfgNode:
    """Config of a Mask R-CNN with a thin ResNet-18 (16 channels) and an FPN of 16 on the CPU."""
    cfg = get_cfg()
    cfg.NDS = CfgNode()
    cfg.NDS.LABEL_SPACES = [list(space) for space in label_spaces]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_thin_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 100
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 7
    return cfg


def example(
    seed: int, classes: list[int], *, masks: bool | None = True, label_space: int | None = 0
) -> dict[str, Any]:
    """One training example: bright rectangles on noise, one per class, with their ellipses as masks.

    ``masks`` None and ``label_space`` None leave the fields out, as the stock mapper does.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    image = rng.integers(0, 60, (3, SIZE, SIZE))
    boxes, bitmaps = [], []
    y, x = np.mgrid[:SIZE, :SIZE]
    for i, _ in enumerate(classes):
        left, top = 4 + 30 * (i % 3), 4 + 30 * (i // 3)
        width, height = rng.integers(16, 27, 2)
        image[:, top : top + height, left : left + width] = rng.integers(120, 255, (3, 1, 1))
        boxes.append([left, top, left + width, top + height])
        bitmaps.append(
            ((x - left - width / 2) / width * 2) ** 2 + ((y - top - height / 2) / height * 2) ** 2 < 1
        )
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not False or classes:
        bitmaps = bitmaps if masks is not False else [np.zeros((SIZE, SIZE), bool)] * len(classes)
        instances.gt_masks = BitMasks(torch.from_numpy(np.array(bitmaps).reshape(-1, SIZE, SIZE)))
    if masks is not None:
        instances.gt_has_mask = torch.full((len(classes),), masks)
    if label_space is not None:
        instances.gt_label_space = torch.full((len(classes),), label_space)
    return {
        "image": torch.from_numpy(image.astype(np.uint8)),
        "height": SIZE,
        "width": SIZE,
        "instances": instances,
    }
