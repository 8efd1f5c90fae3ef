"""Jobs of MMDetection at a size that trains in a test: the tiny domains, a very thin Mask R-CNN, few iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_mmdet import mask_rcnn

CONFIG = """
default_scope = "mmdet"
model = {model!r}
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="NDSLoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(64, 48), (96, 72)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 72), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=test_pipeline))
train_cfg = dict(max_iters=4)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.002, momentum=0.9),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(type="LoggerHook", interval=2))
log_processor = dict(by_epoch=False)
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
log_level = "WARNING"
nds = dict(
    selector="uniform",
    datasets={datasets!r},
    source=dict(datasets=["tiny_street_train", "tiny_room_train"]),
    target=dict(train=["tiny_city_train"], test=["tiny_city_val"], num_images=8),
    budget=dict(share=0.5),
    partition=dict(num_clusters=2),
    experts=dict(kind="network", crop_size=32, batch_size=8, shared_steps=2, steps=2),
    scoring=dict(max_images=4),
)
"""


def own_files(root: Path) -> dict[str, dict[str, str]]:
    """The tiny domains as ``nds.datasets``, under the names that the Detectron2 side registers them by."""
    return {
        f"tiny_{domain}_{split}": {
            "ann_file": str(root / domain / f"{split}.json"),
            "images": str(root / domain / "images"),
        }
        for domain in ("street", "room", "city")
        for split in ("train", "val")
    }


def write_config(path: Path, root: Path, **model: Any) -> Path:
    """Write the config of a job; ``model`` changes its RoI head."""
    thin = mask_rcnn(3)
    thin["roi_head"].update({"type": "NDSRoIHead", **model})
    path.write_text(CONFIG.format(model=thin, datasets=own_files(root)))
    return path
