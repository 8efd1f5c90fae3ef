"""Small COCO files and images that the tests of the datasets write themselves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DOCUMENT: dict[str, Any] = {
    "licenses": [{"id": 7, "name": "CC BY 4.0"}],
    "images": [
        {"id": 12, "file_name": "b.jpg", "width": 64, "height": 48, "license": 7, "coco_url": "http://x/b"},
        {"id": 3, "file_name": "a.jpg", "width": 60, "height": 40, "flickr_url": "http://f/a"},
        {"id": 20, "file_name": "c.jpg", "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 1, "image_id": 12, "category_id": 5, "bbox": [4, 4, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 2, "image_id": 12, "category_id": 2, "bbox": [20, 4, 8, 8], "area": 64, "iscrowd": 0},
        {"id": 3, "image_id": 12, "category_id": 2, "bbox": [40, 4, 8, 8], "area": 64, "iscrowd": 0},
        {"id": 4, "image_id": 3, "category_id": 5, "bbox": [0, 0, 20, 10], "area": 200, "iscrowd": 0},
        {"id": 5, "image_id": 3, "category_id": 2, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
}


def document(masks: bool = False) -> dict[str, Any]:
    """A fresh copy; with ``masks`` every annotation gets its box as a polygon."""
    fresh = copy.deepcopy(DOCUMENT)
    if masks:
        for annotation in fresh["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return fresh


def write_coco(folder: Path, content: Any, name: str = "train.json") -> Path:
    """Write ``content`` as JSON (NaN allowed, as real files have it); the path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_image(path: Path, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
