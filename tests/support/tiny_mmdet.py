"""A Mask R-CNN of MMDetection that trains in a test, on the tiny datasets, in MMEngine's own runner."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for _name in ("mmengine", "mmcv"):
    pytest.importorskip(_name, reason="MMDetection is not installed (make install)")

from mmengine.config import Config  # noqa: E402
from mmengine.dataset import BaseDataset  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import DATASETS, HOOKS, MODELS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from nds_plugin.mm import require_mmdet, use_torchvision_operators  # noqa: E402

use_torchvision_operators()
require_mmdet()

from mmdet.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=True)
DISTRIBUTED = {
    "launcher": "pytorch",
    "model_wrapper_cfg": {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "find_unused_parameters": True,
    },
}


@MODELS.register_module()
class TinyModel(BaseModel):
    """One number that is trained to be the mean of all pixels; draws as proposals do."""

    def __init__(self, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor)
        self.mean = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        values = torch.stack([image.float().mean() for image in inputs]) / 255
        return {"loss": (self.mean - values * torch.rand(len(values))).square().mean()}


@HOOKS.register_module()
class Recorder(Hook):
    """Keeps the files of every batch, by iteration."""

    def __init__(self) -> None:
        self.seen: dict[int, list[str]] = {}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seen[runner.iter] = [short(sample.img_path) for sample in data_batch["data_samples"]]


@DATASETS.register_module()
class Numbers(BaseDataset):
    """Images that are numbers alone: n of them, half of them tall."""

    def __init__(self, n: int, classes: tuple[str, ...] = ("one",), **kwargs: Any) -> None:
        self.n = n
        super().__init__(metainfo={"classes": classes}, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [
            {"img_id": i, "img_path": f"{i}.png", "width": 60 + i % 2, "height": 60, "instances": []}
            for i in range(self.n)
        ]


def short(path: str) -> str:
    """The last three parts of a path: domain, images, file."""
    return "/".join(Path(path).parts[-3:])


def recorded(runner: Runner) -> dict[int, list[str]]:
    """What the recorder of a runner has seen."""
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, Recorder)]
    return hook.seen


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
    json_file = root / domain / f"{split}.json"
    # In the order of the file: CocoDataset numbers them so, whatever the order in metainfo.
    classes = tuple(category["name"] for category in json.loads(json_file.read_text())["categories"])
    return {
        "type": kind,
        "ann_file": str(json_file),
        "data_prefix": {"img": f"{root / domain / 'images'}/"},
        "metainfo": {"classes": classes, "nds_source": [f"tiny_{domain}_{split}"]},
        "filter_cfg": {"filter_empty_gt": True},
        "pipeline": pipeline(),
        **({"serialize_data": False} if kind == "CocoDataset" else {}),  # collects garbage for half a second
        **more,
    }


def mask_rcnn(num_classes: int) -> dict[str, Any]:
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
    *,
    model: dict[str, Any] | None = None,
    iterations: int = 4,
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
            "model": model or {"type": "TinyModel"},
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
            "custom_hooks": [{"type": "NDSDrawHook", "interval": 2}, {"type": "Recorder"}],
            "visualizer": {
                "type": "DetLocalVisualizer",
                "name": uuid.uuid4().hex,
                "vis_backends": [{"type": "LocalVisBackend"}],
            },
            "randomness": {"seed": 3},
            "log_level": "WARNING",
            **more,
        },
        format_python_code=False,  # takes longer than the training
    )


def joined(root: Path, selection: str, **more: Any) -> dict[str, Any]:
    """Config of the images of a selection of street and room."""
    parts = [coco(root, domain) for domain in ("street", "room")]
    return {"type": "NDSSelection", "selection": selection, "dataset": parts, **more}


def trained(cfg: Config) -> Runner:
    """MMEngine's runner of a config, at the end of its training."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def weights(runner: Runner) -> dict[str, torch.Tensor]:
    """The model's weights."""
    model = runner.model.module if hasattr(runner.model, "module") else runner.model
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same, bit by bit."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[name].numpy(), second[name].numpy()) for name in first
    )
