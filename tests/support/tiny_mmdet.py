"""A Mask R-CNN of MMDetection that trains in a test, on the tiny datasets, in MMEngine's own runner."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

for _name in ("mmengine", "mmcv"):
    pytest.importorskip(_name, reason="MMDetection is not installed (make install)")

from mmengine.config import Config
from mmengine.runner import Runner

from nds_plugin.mm import require_mmdet, use_torchvision_operators

use_torchvision_operators()
require_mmdet()


def pipeline(flip: bool = True) -> list[dict[str, Any]]:
    """Training transforms at the images' own size, two of which draw."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "RandomChoiceResize", "scales": [(64, 48), (96, 72)], "keep_ratio": True},
        *([{"type": "RandomFlip", "prob": 0.5}] if flip else []),
        {"type": "PackDetInputs"},
    ]


def coco(
    root: Path, domain: str, split: str = "train", kind: str = "CocoDataset", **more: Any
) -> dict[str, Any]:
    """Config of one of the tiny datasets, under the name that the Detectron2 side registers it by."""
    from nds_plugin.datasets.coco.store import open_coco

    json_file = root / domain / f"{split}.json"
    classes = tuple(open_coco(json_file).classes)
    return {
        "type": kind,
        "ann_file": str(json_file),
        "data_prefix": {"img": f"{root / domain / 'images'}/"},
        "metainfo": {"classes": classes, "nds_source": [f"tiny_{domain}_{split}"]},
        "filter_cfg": {"filter_empty_gt": True},
        "pipeline": pipeline(),
        **more,
    }


def model(num_classes: int) -> dict[str, Any]:
    """mmdet's own Mask R-CNN, narrow."""
    cfg = Config.fromfile(_base("models/mask-rcnn_r50_fpn.py")).model
    cfg.backbone.update(
        depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1, style="pytorch"
    )
    cfg.backbone.norm_cfg.requires_grad = True
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.rpn_head.anchor_generator.scales = [2]
    head = cfg.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
    head.bbox_roi_extractor.roi_layer.output_size = 3
    head.mask_roi_extractor.roi_layer.output_size = 7
    head.bbox_head.update(in_channels=16, fc_out_channels=32, roi_feat_size=3, num_classes=num_classes)
    head.mask_head.update(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=num_classes)
    cfg.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=40)
    cfg.train_cfg.rcnn.sampler.num = 32
    cfg.train_cfg.rcnn.mask_size = 14
    cfg.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    return cfg.to_dict()


def _base(name: str) -> str:
    import mmdet

    return str(Path(mmdet.__file__).parent / ".mim/configs/_base_" / name)


def config(
    work_dir: Path,
    dataset: dict[str, Any],
    selection: str | None,
    num_classes: int,
    *,
    iterations: int = 6,
    batch_size: int = 2,
    workers: int = 0,
    loop: str = "NDSIterBasedTrainLoop",
    **more: Any,
) -> Config:
    """What a user writes, made from the same parts as mmdet's own configs."""
    sampler = {"type": "NDSInfiniteSampler", "selection": selection}
    if loop != "NDSIterBasedTrainLoop":
        sampler["batch_size"] = batch_size
    return Config(
        {
            "default_scope": "mmdet",
            "custom_imports": {"imports": ["nds_plugin.mm"]},
            "experiment_name": uuid.uuid4().hex,
            "work_dir": str(work_dir),
            "model": model(num_classes),
            "train_dataloader": {
                "batch_size": batch_size,
                "num_workers": workers,
                "sampler": sampler,
                "dataset": dataset,
            },
            "train_cfg": {"type": loop, "max_iters": iterations},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "SGD", "lr": 0.002, "momentum": 0.9},
                "clip_grad": {"max_norm": 5.0},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4}
            ],
            "default_hooks": {
                "checkpoint": {"type": "NDSCheckpointHook", "interval": 2},
                "logger": {"type": "LoggerHook", "interval": 2},
            },
            "custom_hooks": [{"type": "NDSDrawHook", "interval": 2}],
            "visualizer": {
                "type": "DetLocalVisualizer",
                "name": uuid.uuid4().hex,
                "vis_backends": [{"type": "LocalVisBackend"}],
            },
            "randomness": {"seed": 3},
            "log_level": "WARNING",
            **more,
        }
    )


def runner(cfg: Config) -> Runner:
    """MMEngine's runner of a config."""
    return Runner.from_cfg(cfg)
