"""Read and check a COCO json file.

Everything in the package that reads COCO annotations reads them through :func:`read_coco_json`,
so that a bad file is told in one line before a host framework sees it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)

KEYS = ("images", "annotations", "categories")
# COCO rounds its boxes to two decimals, so many of its boxes leave the image by 0.01 pixel.
ROUNDING_PIXELS = 0.05
MAX_SIDE = 1_000_000  # pixels; our choice, beyond any photograph


def read_coco_json(path: str | os.PathLike[str], require: Sequence[str] = KEYS) -> dict[str, Any]:
    """Read and check a COCO instances file.

    The document comes back with the ids untouched and its boxes usable: those that leave their
    image are clipped to it, annotations whose box has no area (or is not finite, or lies outside
    its image) are dropped. Both are counted in one WARNING that names the first of each.

    Args:
        path: the json file.
        require: top-level keys that must be there; the other ones of ``KEYS`` become empty lists.

    Raises:
        NDSError: missing, cut short, not JSON, not COCO, an id that occurs twice, or an annotation
            of an image or a category that the file does not list.
    """
    with no_gc():
        document = _parse(path)
        _check_keys(document, require, path)
        images, annotations = document["images"], document["annotations"]
        image_ids = _unique_ids(images, "images", path)
        category_ids = _unique_ids(document["categories"], "categories", path)
        _text_column(images, "file_name", "images", path)
        _text_column(document["categories"], "name", "categories", path)
        owners = _references(annotations, "image_id", image_ids, "image", path)
        _references(annotations, "category_id", category_ids, "category", path)
        _clean_boxes(document, owners, path)
    return document


def sorted_categories(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories in ascending order of their ids: the order of Detectron2's contiguous ids."""
    return sorted(document["categories"], key=lambda category: category["id"])


@contextlib.contextmanager
def no_gc() -> Iterator[None]:
    """Pause the garbage collector: it is most of the time of building millions of small objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(path: str | os.PathLike[str]) -> Any:
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise NDSError(f"annotation file not found: {path}.") from None
    except OSError as error:
        raise NDSError(f"cannot read the annotation file {path}: {error.strerror}.") from None
    if not raw.strip():
        raise NDSError(f"{path} is empty ({len(raw)} bytes), expected a COCO json file: get it again.")
    size = len(raw)
    try:
        text = raw.decode("utf-8-sig")
        del raw
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise NDSError(
            f"{path} is not a JSON text file (byte {error.start} of {size} is not UTF-8): "
            "get it again, and unpack it if it is compressed."
        ) from None
    except json.JSONDecodeError as error:
        byte = len(text[: error.pos].encode())
        raise NDSError(
            f"{path} is not complete JSON ({error.msg} at line {error.lineno}, byte {byte} of {size}): "
            "it was cut short or damaged, get it again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise NDSError(f"{path} is not a COCO json file ({error}).") from None


def _check_keys(document: Any, require: Sequence[str], path: str | os.PathLike[str]) -> None:
    if not isinstance(document, dict):
        raise NDSError(
            f"{path} is not COCO json: expected an object with the keys {', '.join(require)}, "
            f"got a {type(document).__name__}."
        )
    missing = [key for key in require if key not in document]
    if missing:
        lacks = ", ".join(map(repr, missing))
        have = ", ".join(map(repr, itertools.islice(document, 8))) or "none"
        raise NDSError(f"{path} is not COCO json: it lacks {lacks}; its keys: {have}.")
    for key in KEYS:
        value = document.setdefault(key, [])
        if not isinstance(value, list):
            raise NDSError(f"{path} is not COCO json: {key!r} must be a list, got a {type(value).__name__}.")
    if not document["images"]:
        raise NDSError(f"{path} lists no images.")


def _column(items: list[Any], key: str, what: str, path: str | os.PathLike[str]) -> list[Any]:
    try:
        return [item[key] for item in items]
    except (KeyError, TypeError, IndexError):
        bad = [i for i, item in enumerate(items) if not isinstance(item, dict) or key not in item]
        raise NDSError(
            f"{path} is not COCO json: {len(bad)} of {len(items)} entries of {what!r} have no {key!r}, "
            f"first {what}[{bad[0]}]."
        ) from None


def _text_column(items: list[Any], key: str, what: str, path: str | os.PathLike[str]) -> None:
    values = _column(items, key, what, path)
    if not set(map(type, values)) <= {str}:
        bad = next(i for i, value in enumerate(values) if type(value) is not str)
        raise NDSError(f"{path}: {key!r} of {what}[{bad}] must be text, got {values[bad]!r}.")


def _unique_ids(items: list[Any], what: str, path: str | os.PathLike[str]) -> dict[Any, int]:
    """Position of each id; all of them whole numbers or all of them text, none twice."""
    ids = _column(items, "id", what, path)
    types = set(map(type, ids))
    if types not in ({int}, {str}, set()):
        names = ", ".join(sorted(t.__name__ for t in types))
        raise NDSError(f"{path}: the ids of {what!r} must be all whole numbers or all text, got {names}.")
    positions = {value: i for i, value in enumerate(ids)}
    if len(positions) != len(ids):
        twice = [value for value, count in Counter(ids).items() if count > 1]
        raise NDSError(
            f"{path}: {len(twice)} ids of {what!r} occur more than once, first {twice[0]!r}: "
            "make them unique."
        )
    return positions


def _references(
    annotations: list[Any], key: str, known: dict[Any, int], what: str, path: str | os.PathLike[str]
) -> npt.NDArray[np.int64]:
    """Position in ``known`` of what each annotation refers to; shape (annotations,)."""
    values = _column(annotations, key, "annotations", path)
    try:
        return np.fromiter(map(known.__getitem__, values), dtype=np.int64, count=len(values))
    except (KeyError, TypeError):
        listed = set(known)
        bad = [i for i, v in enumerate(values) if isinstance(v, (list, dict)) or v not in listed]
        raise NDSError(
            f"{path}: {len(bad)} of {len(values)} annotations are of no {what} that the file lists, "
            f"first annotations[{bad[0]}] with {key} {values[bad[0]]!r}: remove them or add the {what}."
        ) from None


def size_array(images: list[Any], key: str, path: str | os.PathLike[str]) -> npt.NDArray[np.float64]:
    """Width or height of each image, 0 where the file does not say."""
    values = [image.get(key, 0) for image in images]
    if not set(map(type, values)) <= {int, float} or not all(0 <= v <= MAX_SIDE for v in values):
        bad = next(i for i, v in enumerate(values) if type(v) not in (int, float) or not 0 <= v <= MAX_SIDE)
        owner = images[bad]["id"]
        raise NDSError(
            f"{path}: {key!r} of image {owner!r} must be a number of 0 (not known) to {MAX_SIDE} pixels, "
            f"got {values[bad]!r}."
        )
    return np.array(values, dtype=np.float64)


def box_array(annotations: list[Any], path: str | os.PathLike[str]) -> npt.NDArray[np.float64]:
    """Boxes as the file has them, x, y, width, height; shape (annotations, 4)."""
    boxes = _column(annotations, "bbox", "annotations", path)
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
        f"{path}: {len(bad)} of {len(boxes)} boxes are not four numbers x, y, width, height, "
        f"first annotations[{bad[0]}] with bbox {boxes[bad[0]]!r}."
    )


def _clean_boxes(
    document: dict[str, Any], owners: npt.NDArray[np.int64], path: str | os.PathLike[str]
) -> None:
    """Clip and drop as :func:`read_coco_json` says; ``owners`` are positions in ``images``."""
    images, annotations = document["images"], document["annotations"]
    if not annotations:
        return
    boxes = box_array(annotations, path)
    sizes = np.stack([size_array(images, "width", path), size_array(images, "height", path)], axis=1)
    limits = np.where(sizes > 0, sizes, np.inf)[owners]
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    clipped_start, clipped_end = np.clip(start, 0, limits), np.clip(end, 0, limits)
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes) & np.tile((boxes[:, 2:] > 0) & (clipped_end > clipped_start), 2)
        empty: npt.NDArray[np.bool_] = np.logical_not(usable.all(axis=1))
        beyond = np.maximum(clipped_start - start, end - clipped_end).max(axis=1)
    leaving = np.logical_and(~empty, beyond > ROUNDING_PIXELS)
    new = np.concatenate([clipped_start, clipped_end - clipped_start], axis=1)
    notes = []
    if leaving.any():
        notes.append(f"{_describe(document, owners, leaving)} leave their image and were clipped to it")
    if empty.any():
        notes.append(f"{_describe(document, owners, empty)} have no area in their image and were dropped")
    for i in np.flatnonzero(leaving).tolist():
        annotations[i]["bbox"] = new[i].tolist()
    if notes:
        logger.warning("%s: of %d boxes, %s.", path, len(annotations), "; ".join(notes))
    if empty.any():
        document["annotations"] = [annotations[i] for i in np.flatnonzero(~empty).tolist()]


def _describe(document: dict[str, Any], owners: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> str:
    first = int(np.flatnonzero(mask)[0])
    annotation, image = document["annotations"][first], document["images"][owners[first]]
    size = f"{image.get('width', '?')} x {image.get('height', '?')}"
    return (
        f"{int(mask.sum())} (first: annotation {annotation.get('id', first)!r} of image {image['id']!r}, "
        f"bbox {annotation['bbox']}, image {size})"
    )
