"""Tiny datasets laid out as their providers do: COCO, OpenImages, Cityscapes, and a folder of NDS_DATA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from coco_files import write_coco, write_image
from openimages_trees import Tree
from PIL import Image

from nds_plugin.datasets.cityscapes.split import CLASSES

# Street classes and others; the joined sources of the tests all have these.
SOURCE_CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "train", "truck", "dog", "dress")
_LABELS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


Categories = list[dict[str, Any]]


def numbered(classes: tuple[str, ...]) -> Categories:
    """Categories with ids from 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(classes)]


def coco_document(names: list[str], categories: Categories, masks: bool = True) -> dict[str, Any]:
    """Two boxes per image, of the categories in turn; polygons where ``masks``."""
    annotations = []
    for i in range(2 * len(names)):
        x, y, side = 4 + i % 3 * 14, 4 + i % 2 * 6, 24
        polygon = [[x, y, x + side, y, x + side, y + side, x, y + side]]
        annotations.append(
            {"id": i + 1, "image_id": i // 2 + 1, "category_id": categories[i % len(categories)]["id"], "iscrowd": 0,
             "bbox": [x, y, side, side], "area": side * side, **({"segmentation": polygon} if masks else {})}
        )  # fmt: skip
    return {
        "images": [{"id": i + 1, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names)],
        "annotations": annotations,
        "categories": categories,
    }


def _write(images: Path, json_file: Path, categories: Categories, count: int, masks: bool = True) -> None:
    names = [f"{i:012d}.jpg" for i in range(1, count + 1)]
    for i, name in enumerate(names):
        write_image(images / name, seed=i)
    write_coco(json_file.parent, coco_document(names, categories, masks), json_file.name)


def write_coco_2017(root: Path, count: int = 12) -> None:
    """``coco/train2017`` and ``coco/annotations``, with COCO's own category ids, which leave gaps."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    coco = root / "coco"
    _write(coco / "train2017", coco / "annotations/instances_train2017.json", categories, count)


def write_openimages(root: Path, count: int = 12) -> None:
    """``openimages`` in the published form: two boxes an image, without masks."""
    labels = {f"/m/0{i}": name.capitalize() for i, name in enumerate(SOURCE_CLASSES)}
    tree = Tree("train")
    for i in range(count):
        image_id = f"{i:016x}"
        tree.add_image(image_id, (64, 48))
        for n in (2 * i, 2 * i + 1):
            x, y = 4 + n % 3 * 14, 4 + n % 2 * 6
            corners = (x / 64, (x + 24) / 64, y / 48, (y + 24) / 48)
            tree.add_box(image_id, list(labels)[n % len(labels)], corners)
    folder = tree.write(root)
    lines = "".join(f"{label},{name}\n" for label, name in labels.items())
    (folder / "annotations/class-descriptions-boxable.csv").write_text(lines)


def write_cityscapes(root: Path, count: int = 4) -> None:
    """``cityscapes/leftImg8bit`` and ``gtFine`` for train and val."""
    for split in ("train", "val"):
        for i in range(count):
            city, stem = "aachen", f"aachen_{i:06d}_000019"
            ids = np.full((64, 128), 7, dtype=np.uint16)
            for n, name in enumerate(CLASSES):
                ids[8 + n % 2 * 24 : 30 + n % 2 * 24, n // 2 * 30 : n // 2 * 30 + 24] = (
                    _LABELS[name] * 1000 + i
                )
            pixels = np.random.Generator(np.random.PCG64(i)).integers(0, 256, (64, 128, 3), dtype=np.uint8)
            for part, suffix, array in (
                ("leftImg8bit", "leftImg8bit", pixels),
                ("gtFine", "gtFine_instanceIds", ids),
            ):
                path = root / "cityscapes" / part / split / city / f"{stem}_{suffix}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)


def write_photographs(root: Path, sources: list[str], count: int = 6) -> None:
    """``detection/NAME`` of the sources and of the three clients, as NDS_DATA holds them."""
    from nds_plugin.experiments.spec import CCP, DAWN

    for name in sources:
        folder = root / "detection" / name
        _write(
            folder / "images",
            folder / "train.json",
            numbered(("Person",) if name == "openimages" else SOURCE_CLASSES),
            count,
            masks=name != "openimages",
        )
    for name, labelling, classes in (
        ("cityscapes", "", CLASSES),
        ("ccp", "_modanet13", CCP),
        ("dawn", "", DAWN),
    ):
        folder = root / "detection" / name
        for split in ("train", "val"):
            document = folder / f"{split}{labelling}.json"
            _write(folder / "images", document, numbered(tuple(classes)), count, masks=name != "dawn")
            if labelling:
                (folder / f"{split}.json").write_text(
                    json.dumps(coco_document(["000000000001.jpg"], numbered(("other",))))
                )
