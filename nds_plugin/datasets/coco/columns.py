"""Pieces of COCO's lists, checked, as the columns of a store."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.store import Annotations, Images, Ragged, StoreWriter
from nds_plugin.store.rle import runs
from nds_plugin.store.schema import NO_CROWD_KEY, TEXT_RLE, text

logger = logging.getLogger(__name__)

MAX_SIDE = 1_000_000  # pixels; our choice, beyond any photograph


class CocoColumns:
    """Turns pieces of COCO's lists into columns."""

    def __init__(self, path: Path, writer: StoreWriter) -> None:
        self._path, self._writer = path, writer
        self._categories: list[dict[str, Any]] = []
        self._text_categories: dict[str, int] = {}  # where category ids are text: numbers in their place
        self._licenses: dict[Any, str] = {}
        self._license_ids: list[Any] = []
        self._broken = 0
        self._seen_images = self._seen_annotations = 0

    def take(self, key: str, value: Any) -> None:
        """Take a member of the file, or a piece of one of its lists; others than COCO's are passed over.

        Raises:
            NDSError: a value that is none of COCO's, or that no column can hold.
        """
        known = {
            "licenses": self._licenses_of,
            "categories": self._categories_of,
            "images": self._images_of,
            "annotations": self._annotations_of,
        }
        if key not in known or not value:
            return
        try:
            known[key](value)
        except (OverflowError, UnicodeError, TypeError, ValueError, pa.ArrowException) as error:
            if isinstance(error, NDSError):
                raise
            raise NDSError(self._unfit(key, value, known[key], error)) from None

    def _unfit(self, key: str, items: Any, take: Callable[[Any], None], error: Exception) -> str:
        """Which of the items no column can hold: what was taken of this file is thrown away anyway."""
        for item in items if isinstance(items, list) else ():
            try:
                take([item])
            except (OverflowError, UnicodeError, TypeError, ValueError, pa.ArrowException):
                shown = ascii(item)
                return (
                    f"{self._path}: an entry of {key!r} holds a value that is out of range or no text ({error}): "
                    f"{shown[:200]}{'...' if len(shown) > 200 else ''}"
                )
        return f"{self._path}: {key!r} hold a value that is out of range or no text ({error})."

    def _licenses_of(self, items: Any) -> None:
        if isinstance(items, list):
            for entry in items:
                if isinstance(entry, dict) and isinstance(entry.get("id"), (int, str)):
                    self._licenses[entry["id"]] = str(entry.get("name") or entry.get("url") or "")

    def _categories_of(self, items: list[Any]) -> None:
        ids = self._column(items, "id", "categories", len(self._categories))
        names = self._column(items, "name", "categories", len(self._categories))
        for i, name in enumerate(names):
            if not isinstance(name, str):
                raise NDSError(
                    f"{self._path}: 'name' of categories[{len(self._categories) + i}] must be text, got {name!r}."
                )
        self._one_type([*(c["id"] for c in self._categories), *ids], "categories")
        self._categories += items

    def _images_of(self, items: list[Any]) -> None:
        first = self._seen_images
        self._seen_images += len(items)
        ids = self._column(items, "id", "images", first)
        names = self._column(items, "file_name", "images", first)
        if not set(map(type, names)) <= {str}:
            bad = next(i for i, name in enumerate(names) if type(name) is not str)
            raise NDSError(
                f"{self._path}: 'file_name' of images[{first + bad}] must be text, got {names[bad]!r}."
            )
        urls = [image.get("coco_url") or image.get("flickr_url") for image in items]
        checksums = [image.get("checksum") for image in items]
        licenses = [image.get("license") for image in items]
        self._license_ids += [i if isinstance(i, (int, str)) else None for i in licenses]
        self._writer.add_images(
            Images(
                image_id=self._ids(ids, "images"),
                file_name=pa.array(names, pa.string()),
                width=self._sizes(items, "width"),
                height=self._sizes(items, "height"),
                url=text(urls) if any(urls) else None,
                checksum=text(checksums) if any(checksums) else None,
            )
        )

    def _sizes(self, images: list[Any], key: str) -> npt.NDArray[np.int32]:
        values = [image.get(key) or 0 for image in images]
        for image, value in zip(images, values):
            if type(value) not in (int, float) or not 0 <= value <= MAX_SIDE:
                raise NDSError(
                    f"{self._path}: {key!r} of image {image['id']!r} must be a number of 0 (not known) to "
                    f"{MAX_SIDE} pixels, got {value!r}."
                )
        return np.array(values, dtype=np.float64).astype(np.int32)

    def _annotations_of(self, items: list[Any]) -> None:
        first = self._seen_annotations
        self._seen_annotations += len(items)
        owners = self._references(items, "image_id", "image", first)
        categories = self._category_numbers(self._references(items, "category_id", "category", first))
        boxes = self._boxes(items, first)
        masks = [self._segmentation(item) for item in items]
        kept = [i for i, mask in enumerate(masks) if mask is not None]
        self._broken += len(items) - len(kept)
        if len(kept) < len(items):
            items, owners, masks = ([column[i] for i in kept] for column in (items, owners, masks))
            boxes, categories = boxes[kept], categories[kept]
        if items:
            self._writer.add_annotations(self._columns(items, owners, categories, boxes, masks))

    def _columns(
        self, items: list[Any], owners: list[Any], categories: Any, boxes: Any, masks: list[Any]
    ) -> Annotations:
        polygons = [mask if isinstance(mask, list) else () for mask in masks]
        rles = [mask if isinstance(mask, tuple) and mask else None for mask in masks]
        sizes = [(0, 0) if rle is None else rle[0] for rle in rles]
        areas = [item.get("area") for item in items]
        keypoints = [item.get("keypoints") or () for item in items]
        ids = [item.get("id") if type(item.get("id")) is int else -1 for item in items]
        return Annotations(
            image_id=self._ids(owners, "annotations"),
            category_id=categories,
            bbox=boxes,
            iscrowd=np.array([self._crowd(item) for item in items], dtype=np.int8),
            area=np.array([v if type(v) in (int, float) else np.nan for v in areas], dtype=np.float64),
            annotation_id=np.array(ids, np.int64) if max(ids) >= 0 else None,
            flags=np.array([0 if rle is None else rle[2] for rle in rles], np.uint8) if any(rles) else None,
            polygons=self._polygons(items, polygons) if any(polygons) else None,
            rle=Ragged.of_bytes([None if rle is None else rle[1] for rle in rles]) if any(rles) else None,
            rle_size=np.array(sizes, dtype=np.int32) if any(rles) else None,
            keypoints=self._keypoints(items, keypoints) if any(keypoints) else None,
        )

    def _crowd(self, annotation: dict[str, Any]) -> int:
        value = 1 if annotation.get("ignore") in (1, True) else annotation.get("iscrowd", NO_CROWD_KEY)
        if value is None or value in (0, 1, NO_CROWD_KEY):
            return int(value or 0)
        raise NDSError(
            f"{self._path}: 'iscrowd' of annotation {annotation.get('id')!r} must be 0 or 1, got {value!r}."
        )

    def _keypoints(self, items: list[Any], keypoints: list[Any]) -> Ragged:
        try:
            return Ragged.of_numbers(keypoints)
        except (TypeError, ValueError, OverflowError):
            bad = next(i for i, points in enumerate(keypoints) if points and not _all_numbers(points))
            raise NDSError(
                f"{self._path}: 'keypoints' of annotation {items[bad].get('id')!r} must be numbers x, y, visibility, "
                f"..., got {str(keypoints[bad])[:60]}."
            ) from None

    def _segmentation(self, annotation: dict[str, Any]) -> Any:
        """Polygons as a list, run lengths as ((height, width), bytes, flag), () for none, None for broken."""
        segmentation = annotation.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                return _run_lengths(segmentation)
            if not segmentation:
                return ()
            if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
                raise TypeError
            polygons = [part for part in segmentation if len(part) % 2 == 0 and len(part) >= 6]
            return polygons or None
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            raise self._no_mask(annotation) from None

    def _polygons(self, items: list[Any], polygons: list[Any]) -> Ragged:
        try:
            found = Ragged.of_polygons(polygons)
            assert isinstance(found.values, Ragged)
            whole = bool(np.isfinite(np.asarray(found.values.values)).all())
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            bad = (i for i, p in zip(items, polygons) if not all(_all_numbers(part) for part in p))
            raise self._no_mask(next(bad))
        return found

    def _no_mask(self, annotation: dict[str, Any]) -> NDSError:
        return NDSError(
            f"{self._path}: annotation {annotation.get('id')!r} of image {annotation['image_id']!r} has a "
            "segmentation that is neither polygons, [[x, y, ...], ...], nor run lengths of a whole mask, "
            "{size, counts}."
        )

    def _boxes(self, items: list[Any], first: int) -> npt.NDArray[np.float64]:
        boxes = self._column(items, "bbox", "annotations", first)
        numbers, flat = {int, float}, itertools.chain.from_iterable
        fours = set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}
        if fours and set(map(type, flat(boxes))) <= numbers:
            return np.fromiter(flat(boxes), dtype=np.float64, count=4 * len(boxes)).reshape(-1, 4)
        bad = [
            i
            for i, box in enumerate(boxes)
            if not (isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= numbers)
        ]
        raise NDSError(
            f"{self._path}: {len(bad)} of {len(boxes)} boxes are not four numbers x, y, width, height, "
            f"first annotations[{first + bad[0]}] with bbox {boxes[bad[0]]!r}."
        )

    def _category_numbers(self, ids: list[Any]) -> npt.NDArray[np.int64]:
        kind = self._one_type(ids, "category_id of annotations")
        if kind is str:
            numbers = self._text_categories
            return np.array([numbers.setdefault(i, len(numbers)) for i in ids], dtype=np.int64)
        return np.array(ids, dtype=np.int64)

    def _ids(self, ids: list[Any], what: str) -> Any:
        kind = self._one_type(ids, what)
        try:
            return pa.array(ids, pa.string()) if kind is str else np.array(ids, dtype=np.int64)
        except OverflowError:
            raise NDSError(f"{self._path}: the ids of {what!r} must fit into 64 bits.") from None

    def _references(self, items: list[Any], key: str, what: str, first: int) -> list[Any]:
        values = self._column(items, key, "annotations", first)
        if not set(map(type, values)) <= {int, str}:
            bad = [i for i, value in enumerate(values) if type(value) not in (int, str)]
            raise NDSError(
                f"{self._path}: {len(bad)} of {len(values)} annotations are of no {what} that the file lists, first "
                f"annotations[{first + bad[0]}] with {key} {values[bad[0]]!r}: remove them or add the {what}."
            )
        return values

    def _one_type(self, ids: list[Any], what: str) -> type:
        types = set(map(type, ids))
        if types not in ({int}, {str}):
            names = ", ".join(sorted(t.__name__ for t in types))
            raise NDSError(
                f"{self._path}: the ids of {what!r} must be all whole numbers or all text, got {names}."
            )
        return types.pop()

    def _column(self, items: list[Any], key: str, what: str, first: int) -> list[Any]:
        try:
            return [item[key] for item in items]
        except (KeyError, TypeError, IndexError):
            bad = [i for i, item in enumerate(items) if not isinstance(item, dict) or key not in item]
            raise NDSError(
                f"{self._path} is not COCO json: {len(bad)} of {len(items)} entries of {what!r} have no {key!r}, "
                f"first {what}[{first + bad[0]}]."
            ) from None

    def finish(self) -> list[tuple[int, str]]:
        """What can be told at the end of the file; the categories."""
        if self._broken:
            logger.warning(
                "%s: %d instances left out, their masks are not polygons.", self._path, self._broken
            )
        names = [self._licenses.get(i, "") for i in self._license_ids]
        if any(names):
            self._writer.set_text("license", text(names))
        ids = [category["id"] for category in self._categories]
        if len(set(ids)) != len(ids):
            twice = [value for value in dict.fromkeys(ids) if ids.count(value) > 1]
            raise NDSError(
                f"{self._path}: {len(twice)} ids of 'categories' occur more than once, first {twice[0]!r}: "
                "make them unique."
            )
        return self._numbered(ids)

    def _numbered(self, ids: list[Any]) -> list[tuple[int, str]]:
        names = {category["id"]: category["name"] for category in self._categories}
        if not ids or isinstance(ids[0], int):
            return [(int(i), names[i]) for i in ids]
        # Text ids: numbered as the annotations met them, then by name. The order of classes is that of
        # the numbers, so they are renamed to ascend with the text.
        unknown = [i for i in self._text_categories if i not in names]
        if unknown:
            raise NDSError(
                f"{self._path}: annotations are of no category that the file lists, first with category_id "
                f"{unknown[0]!r}: remove them or add the category."
            )
        ordered = sorted(names)
        self._writer.renumber(
            {self._text_categories[i]: n for n, i in enumerate(ordered) if i in self._text_categories}
        )
        return [(n, names[i]) for n, i in enumerate(ordered)]


def _all_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers that a float can hold."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return False
    try:
        return all(math.isfinite(value) for value in values)
    except OverflowError:
        return False


def _run_lengths(segmentation: dict[str, Any]) -> tuple[tuple[int, int], bytes, int]:
    height, width = segmentation["size"]
    if (
        type(height) is not int
        or type(width) is not int
        or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE)
    ):
        raise ValueError
    given = segmentation["counts"]
    if isinstance(given, list):
        if sum(given) != height * width or min(given) < 0:
            raise ValueError
        from pycocotools import mask

        return (height, width), mask.frPyObjects(segmentation, height, width)["counts"], 0
    counts = given.encode("ascii")
    if runs(counts).sum() != height * width:
        raise ValueError
    return (height, width), counts, TEXT_RLE
