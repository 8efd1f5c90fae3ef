"""COCO 2017, train and val, laid out as in Detectron2's ``datasets/README.md``."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

from nds_plugin.datasets.coco.store import FILES, SETTINGS, coco_spec
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree
from nds_plugin.store import Inputs, StoreSpec
from nds_plugin.store.opening import STORES

TREE = """\
coco/
  annotations/
    instances_train2017.json
    instances_val2017.json
  train2017/            118,287 jpg
  val2017/              5,000 jpg"""


def _name(split: str) -> str:
    return f"nds_coco_2017_{split}"


def _inputs(root: Path, json_file: Path) -> Inputs:
    if not json_file.is_file():
        raise missing_tree(COCO, root, json_file)
    return Inputs(files=(json_file,), settings=SETTINGS)


def _spec(split: str, root: Path) -> StoreSpec:
    json_file = _json_file(split, root)
    spec = coco_spec(json_file, _name(split), root / STORES)
    return dataclasses.replace(spec, inputs=functools.partial(_inputs, root, json_file))


def _json_file(split: str, root: Path) -> Path:
    return root / FILES[_name(split)]


def _image_root(split: str, root: Path) -> Path:
    return root / "coco" / f"{split}2017"


def _count(split: str, root: Path) -> tuple[int, str]:
    with os.scandir(_image_root(split, root)) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries), f"jpg in {split}2017"


def _split(split: str, images: int, paper_images: int | None) -> Split:
    return Split(
        name=_name(split),
        split=split,
        spec=functools.partial(_spec, split),
        image_root=functools.partial(_image_root, split),
        metadata={"like": "coco_2017_train", "json_file": functools.partial(_json_file, split)},
        paper_images=paper_images,
        images=images,
        quick_count=functools.partial(_count, split),
    )


COCO = PublicDataset(
    key="coco",
    title="COCO",
    task="detection",
    role="source",
    num_classes=80,
    paper_classes="80",
    page="https://cocodataset.org/#download",
    licence="annotations CC BY 4.0; images under the Flickr licences that the json lists",
    tree=TREE,
    download="train2017.zip, val2017.zip, annotations_trainval2017.zip",
    splits=(_split("train", 118_287, 118_287), _split("val", 5_000, None)),
    remarks=(
        "Detectron2's own names, coco_2017_train and coco_2017_val, share the stores of these, wherever this "
        "plugin reads them."
    ),
)

# Detectron2 registers the same files under these names: they are known without it, too.
DETECTRON2_NAMES = {split.name.removeprefix("nds_"): split.name for split in COCO.splits}
