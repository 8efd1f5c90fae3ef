"""CUB-200-2011: birds, listed in text files of numbers, with one box each."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.whole_images.split import (
    Box,
    Form,
    Listing,
    table_of,
    whole_image_split,
    whole_number,
)
from nds_plugin.errors import NDSError

FOLDER = "CUB_200_2011"
TREE = """\
CUB_200_2011/
  images/001.Black_footed_Albatross/*.jpg, ...   11,788 jpg
  images.txt
  image_class_labels.txt
  train_test_split.txt
  classes.txt
  bounding_boxes.txt"""
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "bounding_boxes.txt")
_IS_TRAINING = {"train": "1", "test": "0"}


def _numbered(path: Path, columns: int, what: str) -> dict[int, list[str]]:
    """The lines of a list by the number that each begins with."""
    rows: dict[int, list[str]] = {}
    for number, *rest in table_of(path, columns, what):
        key = whole_number(number, path, what.split()[0])
        if key in rows:
            raise NDSError(f"{path}: {what.split()[0]} {key} is listed twice.")
        rows[key] = rest
    return rows


def _read(split: str, root: Path) -> Listing:
    folder = root / FOLDER
    names = _numbered(folder / LISTS[0], 2, "image_id image_name")
    labels = _numbered(folder / LISTS[1], 2, "image_id class_id")
    splits = _splits(root)
    classes = _numbered(folder / LISTS[3], 2, "class_id class_name")
    boxes = _numbered(folder / LISTS[4], 5, "image_id x y width height")
    for list_name, ids in ((LISTS[1], set(labels)), (LISTS[2], set(splits)), (LISTS[4], set(boxes))):
        if ids != set(names):
            odd = min(ids ^ set(names))
            raise NDSError(
                f"{folder}: images.txt lists {len(names)} images, {list_name} {len(ids)}; image {odd} is in one of "
                "them only: unpack CUB_200_2011.tgz again."
            )
    chosen = [image_id for image_id in names if splits[image_id] == _IS_TRAINING[split]]
    return Listing(
        image_ids=np.array(chosen, dtype=np.int64),
        file_names=[names[image_id][0] for image_id in chosen],
        labels=np.array(
            [whole_number(labels[i][0], folder / LISTS[1], "class_id") for i in chosen], np.int64
        ),
        # "001.Black_footed_Albatross" is "Black footed Albatross"
        categories=[(k, name.partition(".")[2].replace("_", " ") or name) for k, (name,) in classes.items()],
        boxes=lambda i: [_box(boxes[chosen[i]], chosen[i], folder / LISTS[4])],
    )


def _splits(root: Path) -> dict[int, str]:
    path = root / FOLDER / LISTS[2]
    splits = {key: value for key, (value,) in _numbered(path, 2, "image_id is_training_image").items()}
    for key, value in splits.items():
        if value not in ("0", "1"):
            raise NDSError(f"{path}: image {key} must be 1 (training) or 0 (test), got {value!r}.")
    return splits


def _box(words: list[str], image_id: int, path: Path) -> Box:
    try:
        x, y, width, height = map(float, words)
    except ValueError:
        x = y = width = height = math.nan
    if not math.isfinite(x + y + width + height):
        raise NDSError(f"{path}: the box of image {image_id} must be four numbers, got {' '.join(words)!r}.")
    return x, y, width, height


def _count(split: str, root: Path) -> int:
    return sum(value == _IS_TRAINING[split] for value in _splits(root).values())


def _dataset() -> PublicDataset:
    return CUB_200


def _split(split: str, images: int) -> Split:
    form = Form(
        files=tuple(f"{FOLDER}/{name}" for name in LISTS),
        image_root=f"{FOLDER}/images",
        read=functools.partial(_read, split),
        count=functools.partial(_count, split),
        counted="train_test_split.txt",
    )
    return whole_image_split(f"cub_200_{split}", split, (form,), _dataset, images, images)


CUB_200 = PublicDataset(
    key="cub_200",
    title="CUB200 Birds",
    task="classification",
    role="target",
    num_classes=200,
    paper_classes="200",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    licence="none stated; its images are of Flickr, for non-commercial research and education",
    tree=TREE,
    download="CUB_200_2011.tgz",
    splits=(_split("train", 5_994), _split("test", 5_794)),
    remarks="The paper's validation images are the test images. Boxes are read; parts and attributes are not.",
)
