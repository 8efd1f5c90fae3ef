"""A COCO file as the ground truth of an evaluation: what pycocotools reads of it is there, and means what it says.

pycocotools stops at a missing ``iscrowd``, ``area`` or size of an image, takes an annotation with the id
0 for one never found and of two with one id only the last. Detectron2 looks for detections under the
numbers of categories, so that no detection would ever meet a category whose id is text. All of that is
known before anything is trained; :func:`complete` mends it in a copy of the document.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pycocotools.mask as mask_util

from nds_plugin.datasets.coco.categories import unused_namesakes
from nds_plugin.datasets.coco.json_stream import no_gc
from nds_plugin.datasets.coco.masks import valid_polygons
from nds_plugin.errors import NDSError

SizeOf = Callable[[Any], tuple[int, int]]


@dataclass(frozen=True)
class CocoTruth:
    """A COCO document that pycocotools can evaluate on.

    Attributes:
        document: images, annotations and categories.
        changes: what is not as the file has it, as parts of a sentence; empty if nothing is.
    """

    document: dict[str, Any]
    changes: tuple[str, ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of annotations, of those that have a mask, and of crowds."""
        annotations = self.document["annotations"]
        masks = sum(bool(a.get("segmentation")) for a in annotations)
        return len(annotations), masks, sum(bool(a["iscrowd"]) for a in annotations)

    @property
    def flat(self) -> int:
        """Number of annotations, crowds left out, whose boxes have no area: no detection overlaps one."""
        found = (a["bbox"] for a in self.document["annotations"] if not a["iscrowd"])
        return sum(not (box[2] > 0 and box[3] > 0) for box in found)

    @property
    def empty_masks(self) -> int:
        """Number of annotations, crowds left out, with a run-length mask that covers nothing."""
        found = (
            a["segmentation"]
            for a in self.document["annotations"]
            if not a["iscrowd"] and a.get("segmentation")
        )
        return sum(isinstance(mask, dict) and not _covers(mask) for mask in found)


def read_truth(path: str, size_of: SizeOf) -> CocoTruth:
    """The ground truth that a COCO file holds; see :func:`complete`.

    Raises:
        NDSError: the file is not COCO json.
    """
    try:
        with no_gc(), open(path, encoding="utf-8") as file:
            content = file.read()
            document = json.loads(content.removeprefix("\ufeff"))
        marked = ("no byte order mark",) if content.startswith("\ufeff") else ()
        truth = complete(document, size_of)
    except NDSError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise NDSError(f"{path} is no COCO json that can be evaluated against ({reason[:200]}).") from None
    return CocoTruth(truth.document, (*marked, *truth.changes))


def complete(document: Mapping[str, Any], size_of: SizeOf) -> CocoTruth:
    """What pycocotools can evaluate on. Pure: the document stays as it is.

    Args:
        document: a COCO document that :mod:`nds_plugin.datasets.coco.store` reads.
        size_of: width and height of an image by its id, for images without; asked where there are masks.
    """
    given = list(document["annotations"])
    has_masks = any(annotation.get("segmentation") for annotation in given)
    sized, images = _images(document["images"], size_of) if has_masks else (0, document["images"])
    listed = _without_namesakes(document["categories"], given)
    numbers, categories = _categories(listed)
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    found = [a for a in map(_with_mask, given) if a is not None]
    crowds = sum(_crowd(a) != a.get("iscrowd") for a in found)
    areas = sum(not _is_area(a.get("area")) for a in found)
    renumbered = not _are_ids([a.get("id") for a in found])
    annotations = [
        _annotation(a, number if renumbered else a["id"], sizes[a["image_id"]], numbers)
        for number, a in enumerate(found, start=1)
    ]
    changes = (
        (len(given) - len(found), "{} annotations left out whose polygons have no three corners"),
        (
            len(document["categories"]) - len(listed),
            "{} categories left out that no annotation uses and whose names other categories have",
        ),
        (sized, "the sizes of {} images from their files"),
        (len(numbers), "numbers for the {} ids of categories, which are text"),
        (crowds, "iscrowd set for {} annotations (0; 1 where 'ignore' is 1)"),
        (areas, "the area of {} annotations from their masks or boxes"),
        (
            renumbered * len(found),
            "new ids for the {} annotations (pycocotools needs unique numbers above 0)",
        ),
    )
    whole = {"info": {}, **document, "images": images, "categories": categories, "annotations": annotations}
    return CocoTruth(whole, tuple(text.format(count) for count, text in changes if count))


def _images(images: list[dict[str, Any]], size_of: SizeOf) -> tuple[int, list[dict[str, Any]]]:
    """How many had no size, and all images with one."""
    found, missing = [], 0
    for image in images:
        width, height = image.get("width"), image.get("height")
        if not (width and height):
            missing += 1
            width, height = size_of(image["id"])
        found.append({**image, "width": int(width), "height": int(height)})
    return missing, found


def _without_namesakes(
    categories: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The categories that the store has, too."""
    used = {annotation["category_id"] for annotation in annotations}
    left_out = unused_namesakes([(c["id"], c["name"]) for c in categories], used, "the ground truth")
    return [category for category in categories if category["id"] not in left_out]


def _categories(categories: list[dict[str, Any]]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The numbers in the place of ids that are text, as the store gives them; and the categories with them."""
    ids = [category["id"] for category in categories]
    if not any(isinstance(i, str) for i in ids):
        return {}, list(categories)
    numbers = {i: number for number, i in enumerate(sorted(ids))}
    return numbers, [{**category, "id": numbers[category["id"]]} for category in categories]


def _with_mask(annotation: dict[str, Any]) -> dict[str, Any] | None:
    """The annotation with the polygons that training has, too; None where it has none of them left."""
    segmentation = annotation.get("segmentation")
    if not segmentation or isinstance(segmentation, dict):
        return annotation
    polygons = valid_polygons(segmentation)
    if len(polygons) == len(segmentation):
        return annotation
    return {**annotation, "segmentation": polygons} if polygons else None


def _crowd(annotation: Mapping[str, Any]) -> int:
    return int(bool(annotation.get("iscrowd") or annotation.get("ignore")))


def _is_area(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _are_ids(ids: list[Any]) -> bool:
    return all(type(i) is int and i > 0 for i in ids) and len(set(ids)) == len(ids)


def _annotation(
    annotation: dict[str, Any], number: int, size: tuple[Any, Any], categories: Mapping[str, int]
) -> dict[str, Any]:
    area = annotation.get("area")
    category = annotation["category_id"]
    return {
        **annotation,
        "id": number,
        "iscrowd": _crowd(annotation),
        "area": area if _is_area(area) else computed_area(annotation, size),
        "category_id": categories.get(category, category),
    }


def _covers(mask: Mapping[str, Any]) -> bool:
    counts = mask["counts"]
    if isinstance(counts, list):
        return any(counts[1::2])
    return bool(mask_util.area(mask))


def computed_area(annotation: Mapping[str, Any], size: tuple[Any, Any]) -> float:
    """Square pixels of the mask, else of the box, as COCO means it; ``size`` is height and width."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        area = float(annotation["bbox"][2] * annotation["bbox"][3])
        return area if _is_area(area) else 0.0
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *size)
    return float(mask_util.area(segmentation))
