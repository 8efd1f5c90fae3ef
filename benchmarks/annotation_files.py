"""Synthetic COCO files of the sizes of public datasets, for benchmarks/annotations.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nds_plugin.files.artifacts import atomic_write


@dataclass(frozen=True)
class Shape:
    """How large a dataset is.

    Attributes:
        numbers: mean count of numbers in a polygon; 0: boxes only. COCO's file of 2017 has about 46, as its
            448 MB are.
    """

    name: str
    images: int
    annotations: int
    classes: int
    numbers: int

    def scaled(self, images: int) -> Shape:
        """The same mean number of annotations an image."""
        return Shape(
            self.name, images, round(self.annotations * images / self.images), self.classes, self.numbers
        )


COCO = Shape("COCO train2017", 118_287, 860_001, 80, 46)
OPEN_IMAGES = Shape("OpenImages V4 train", 1_743_042, 14_610_229, 601, 0)
_STEP = 20_000


def write(path: Path, shape: Shape, seed: int = 0) -> None:
    """Write a COCO file of a shape; annotations are in no order of their images, as in COCO's."""
    rng = np.random.Generator(np.random.PCG64(seed))
    with atomic_write(path, "w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        file.writelines(_joined(_images(shape)))
        file.write('], "annotations": [')
        file.writelines(_joined(_annotations(shape, rng)))
        names = ", ".join(f'{{"id": {i}, "name": "class {i}"}}' for i in range(1, shape.classes + 1))
        file.write(f'], "categories": [{names}]}}')


def _joined(items: Iterator[str]) -> Iterator[str]:
    yield next(items)
    for item in items:
        yield ", " + item


def _images(shape: Shape) -> Iterator[str]:
    for i in range(1, shape.images + 1):
        yield (
            f'{{"license": 3, "file_name": "{i:012d}.jpg", "coco_url": "http://images.example.org/{i:012d}.jpg", '
            f'"height": 480, "width": 640, "id": {i}}}'
        )


def _polygons(shape: Shape, rng: Any) -> list[str]:
    sizes = 2 * np.maximum(3, rng.poisson(shape.numbers / 2, 5000))
    numbers = np.round(rng.random(int(sizes.sum())) * 400, 2).tolist()
    ends = np.cumsum(sizes).tolist()
    return [", ".join(map(str, numbers[end - size : end])) for size, end in zip(sizes.tolist(), ends)]


def _annotations(shape: Shape, rng: Any) -> Iterator[str]:
    polygons = _polygons(shape, rng) if shape.numbers else []
    for start in range(0, shape.annotations, _STEP):
        count = min(_STEP, shape.annotations - start)
        owners = rng.integers(1, shape.images + 1, count).tolist()
        classes = rng.integers(1, shape.classes + 1, count).tolist()
        boxes = np.round(rng.random((count, 4)) * (300, 200, 300, 200) + (0, 0, 5, 5), 2).tolist()
        picks = rng.integers(0, 5000, count).tolist()
        for i in range(count):
            x, y, w, h = boxes[i]
            mask = f'"segmentation": [[{polygons[picks[i]]}]], ' if polygons else ""
            yield (
                f'{{{mask}"area": {w * h:.4f}, "iscrowd": 0, "image_id": {owners[i]}, "bbox": [{x}, {y}, {w}, {h}], '
                f'"category_id": {classes[i]}, "id": {start + i + 1}}}'
            )
