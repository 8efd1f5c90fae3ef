"""Masks of PASCAL VOC's objects, from SegmentationObject and SegmentationClass.

Both are palette images of the photograph's size. Value k of the first is the k-th object of the
annotation file, 0 the background, 255 the border between objects, which belongs to none (the
devkit's "void"), so that a mask is some pixels smaller than its box. The second holds the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nds_plugin.datasets.label_images import Region, check_size, read_label_image, regions
from nds_plugin.datasets.voc.xml import VocImage, VocObject

VOID = 255
_SHARE = 0.5  # of the best overlap of the mask's box with any object's box; our choice


def read_masks(
    object_png: Path, class_png: Path, image: VocImage, classes: Sequence[str], where: str
) -> tuple[dict[int, Region], list[str]]:
    """Masks of an image's objects.

    That mask k is of object k is seen from the class and the box: a mask of another class, or whose
    tight box fits the box of another object clearly better, is left out.

    Returns:
        position of the object -> its mask; and for each mask that is left out, why.

    Raises:
        NDSError: a file that cannot be read, or of another size than the photograph.
    """
    labels = read_label_image(object_png, where)
    names = read_label_image(class_png, where)
    size = (image.height, image.width) if image.width and image.height else labels.shape
    check_size(labels.shape, size, object_png, where)
    check_size(names.shape, size, class_png, where)
    masks, odd = {}, []
    for value, region in regions(labels, np.arange(1, VOID)).items():
        number = int(np.bincount(names[labels == value].astype(np.int64)).argmax())
        name = classes[number - 1] if 1 <= number <= len(classes) else f"value {number}"
        reason = _mismatch(value - 1, region, name, image.objects)
        if reason:
            odd.append(f"{object_png.name}, value {value}: {reason}")
        else:
            masks[value - 1] = region
    return masks, odd


def _mismatch(k: int, region: Region, name: str, objects: Sequence[VocObject]) -> str:
    """Why a mask cannot be that of object k; "" if it can."""
    if k >= len(objects):
        return f"the annotation has {len(objects)} objects"
    if objects[k].name != name:
        return f"a mask of {name}, but the object is {objects[k].name}"
    overlaps = [_overlap(region.bbox, other.bbox) for other in objects]
    if overlaps[k] <= 0 or overlaps[k] < _SHARE * max(overlaps):
        return f"its box {list(region.bbox)} is not that of the object, {list(objects[k].bbox)}"
    return ""


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes, x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inner
    return inner / union if union > 0 else 0.0
