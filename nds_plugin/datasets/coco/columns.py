"""Pieces of COCO's lists, checked, as the columns of a store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.datasets.coco.categories import unused_namesakes
from nds_plugin.datasets.coco.ids import TEXT, IdTypes, is_number
from nds_plugin.datasets.coco.masks import all_numbers, polygon_columns, read_mask
from nds_plugin.errors import NDSError, few
from nds_plugin.store import Annotations, Images, Ragged, StoreWriter
from nds_plugin.store.schema import MAX_SIDE, NO_CROWD_KEY, text

logger = logging.getLogger(__name__)

_BITS = {None: 0, 0: 0, 1: 1}  # also 0.0, 1.0, false and true: they are equal
_CATEGORY_ID = "category_id of annotations"


class CocoColumns:
    """Turns pieces of COCO's lists into columns."""

    def __init__(self, path: Path, writer: StoreWriter) -> None:
        self._path, self._writer = path, writer
        self._id_types = IdTypes(path)
        self._categories: list[tuple[Any, str]] = []  # id and name
        self._text_categories: dict[str, int] = {}  # where category ids are text: numbers in their place
        self._used_categories: set[Any] = set()
        self._licenses: dict[Any, str] = {}
        self._license_ids: list[Any] = []
        self._broken = self._ignored = 0
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
                    name = str(entry.get("name") or entry.get("url") or "")
                    name.encode()  # UnicodeEncodeError: half a character
                    self._licenses[entry["id"]] = name

    def _categories_of(self, items: list[Any]) -> None:
        ids = self._column(items, "id", "categories", len(self._categories))
        names = self._column(items, "name", "categories", len(self._categories))
        for i, name in enumerate(names):
            if not isinstance(name, str):
                raise NDSError(
                    f"{self._path}: 'name' of categories[{len(self._categories) + i}] must be text, got {name!r}."
                )
        self._categories += zip(self._id_types.take(ids, "categories"), names)

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
        if "\0" in "".join(names):
            bad = next(i for i, name in enumerate(names) if "\0" in name)
            raise NDSError(
                f"{self._path}: 'file_name' of images[{first + bad}] holds the character 0, which no file name may: "
                f"{names[bad]!r}."
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
        values = [0 if image.get(key) is None else image[key] for image in images]
        for image, value in zip(images, values):
            if not is_number(value) or not 0 <= value <= MAX_SIDE:
                kind = "whole number" if type(value) is float else "number"
                raise NDSError(
                    f"{self._path}: {key!r} of image {image['id']!r} must be a {kind} of 0 (not known) to "
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
        usable = np.array([mask is not None for mask in masks], dtype=bool)
        self._broken += len(items) - int(usable.sum())
        self._writer.add_annotations(self._columns(items, owners, categories, boxes, masks, usable))

    def _columns(
        self, items: list[Any], owners: list[Any], categories: Any, boxes: Any, masks: list[Any], usable: Any
    ) -> Annotations:
        polygons = [mask if isinstance(mask, list) else () for mask in masks]
        rles = [mask if isinstance(mask, tuple) and mask else None for mask in masks]
        sizes = [(0, 0) if rle is None else rle[0] for rle in rles]
        areas = [item.get("area") for item in items]
        keypoints = [item.get("keypoints") or () for item in items]
        ids = [int(item["id"]) if is_number(item.get("id")) else -1 for item in items]
        return Annotations(
            image_id=self._ids(owners, "image_id of annotations"),
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
            usable=usable,
        )

    def _crowd(self, annotation: dict[str, Any]) -> int:
        try:
            crowd = _BITS[annotation["iscrowd"]] if "iscrowd" in annotation else NO_CROWD_KEY
            ignored = _BITS[annotation.get("ignore")]
        except (KeyError, TypeError):
            key = "iscrowd" if _is_no_bit(annotation.get("iscrowd")) else "ignore"
            raise NDSError(
                f"{self._path}: {key!r} of annotation {annotation.get('id')!r} must be 0 or 1, got {annotation[key]!r}."
            ) from None
        self._ignored += ignored
        return 1 if ignored else crowd

    def _keypoints(self, items: list[Any], keypoints: list[Any]) -> Ragged:
        for item, points in zip(items, keypoints):
            if points and not all_numbers(points):
                raise NDSError(
                    f"{self._path}: 'keypoints' of annotation {item.get('id')!r} must be numbers x, y, visibility, "
                    f"..., got {str(points)[:60]}."
                )
        return Ragged.of_numbers(keypoints)

    def _segmentation(self, annotation: dict[str, Any]) -> Any:
        try:
            return read_mask(annotation.get("segmentation"))
        except ValueError:
            raise self._no_mask(annotation) from None

    def _polygons(self, items: list[Any], polygons: list[Any]) -> Ragged:
        found = polygon_columns(polygons)
        if found is None:
            bad, parts = next(
                (i, p) for i, p in zip(items, polygons) if not all(all_numbers(part, MAX_SIDE) for part in p)
            )
            if not all(map(all_numbers, parts)):
                raise self._no_mask(bad)
            raise NDSError(
                f"{self._path}: a polygon of annotation {bad.get('id')!r} of image {bad['image_id']!r} reaches beyond "
                f"{MAX_SIDE} pixels: correct it."
            )
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
        ids = self._id_types.take(ids, _CATEGORY_ID)
        self._used_categories.update(ids)
        if self._id_types.kind(_CATEGORY_ID) == TEXT:
            numbers = self._text_categories
            return np.array([numbers.setdefault(i, len(numbers)) for i in ids], dtype=np.int64)
        return np.array(ids, dtype=np.int64)

    def _ids(self, ids: list[Any], what: str) -> Any:
        ids = self._id_types.take(ids, what)
        return pa.array(ids, pa.string()) if isinstance(ids[0], str) else np.array(ids, dtype=np.int64)

    def _references(self, items: list[Any], key: str, what: str, first: int) -> list[Any]:
        values = self._column(items, key, "annotations", first)
        if not set(map(type, values)) <= {int, str}:
            bad = [i for i, value in enumerate(values) if type(value) is not str and not is_number(value)]
        else:
            bad = []
        if bad:
            raise NDSError(
                f"{self._path}: {len(bad)} of {len(values)} annotations are of no {what} that the file lists, first "
                f"annotations[{first + bad[0]}] with {key} {values[bad[0]]!r}: remove them or add the {what}."
            )
        return values

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
                "%s: %d instances left out: none of their polygons has three corners or more.",
                self._path,
                self._broken,
            )
        self._writer.info["ignored"] = self._ignored
        names = [self._licenses.get(i, "") for i in self._license_ids]
        if any(names):
            self._writer.set_text("license", text(names))
        ids = [i for i, _ in self._categories]
        if len(set(ids)) != len(ids):
            twice = [value for value in dict.fromkeys(ids) if ids.count(value) > 1]
            raise NDSError(
                f"{self._path}: {len(twice)} ids of 'categories' occur more than once, first {twice[0]!r}: "
                "make them unique."
            )
        self._leave_out_namesakes()
        return self._numbered()

    def _leave_out_namesakes(self) -> None:
        # Classes are known by their names from here on: two would be united, and a table of AP would show one.
        left_out = unused_namesakes(self._categories, self._used_categories, self._path)
        if left_out:
            names = dict(self._categories)
            logger.warning(
                "%s: %d categories left out that no annotation uses and whose names other categories have: %s.",
                self._path,
                len(left_out),
                few(f"{own!r} ({names[own]!r})" for own in left_out),
            )
            self._categories = [one for one in self._categories if one[0] not in left_out]

    def _numbered(self) -> list[tuple[int, str]]:
        """The categories with numbers for ids, as the annotations have them."""
        own, named = self._id_types.kind("categories"), self._id_types.kind(_CATEGORY_ID)
        if own and named and own != named:
            raise NDSError(
                f"{self._path}: annotations name their categories by {named}, but the ids of 'categories' are {own}: "
                "write both alike."
            )
        names = dict(self._categories)
        # Text ids: numbered as the annotations met them, then by name. The order of classes is that of
        # the numbers, so they are renamed to ascend with the text.
        unknown = [i for i in self._text_categories if i not in names]
        if unknown:
            raise NDSError(
                f"{self._path}: annotations are of no category that the file lists, first with category_id "
                f"{unknown[0]!r}: remove them or add the category."
            )
        if own != TEXT:
            return self._categories
        ordered = sorted(names)
        self._writer.renumber(
            {self._text_categories[i]: n for n, i in enumerate(ordered) if i in self._text_categories}
        )
        return [(n, names[i]) for n, i in enumerate(ordered)]


def _is_no_bit(value: Any) -> bool:
    try:
        return value not in _BITS
    except TypeError:
        return True
