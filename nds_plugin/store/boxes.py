"""Usable boxes: clipped to their image, dropped where nothing of them is in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

# COCO rounds its boxes to two decimals, so many of its boxes leave the image by 0.01 pixel.
ROUNDING_PIXELS = 0.05
_STEP = 1 << 20

TakeBoxes = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]


def clipped(
    boxes: npt.NDArray[np.float64], limits: npt.NDArray[np.float64], tolerance: float = ROUNDING_PIXELS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Boxes (N, 4) as x, y, width, height in images of sides ``limits`` (N, 2), 0 where not known.

    Returns:
        the boxes, those that leave their image by more than ``tolerance`` clipped to it; which
        were clipped; which have no area in their image (or are not finite).
    """
    limits = np.where(limits > 0, limits, np.inf)
    with np.errstate(over="ignore"):
        start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inner_start, inner_end = np.clip(start, 0, limits), np.clip(end, 0, limits)
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes).all(axis=1)
        usable &= ((boxes[:, 2:] > 0) & (inner_end > inner_start)).all(axis=1)
        beyond = np.maximum(inner_start - start, end - inner_end).max(axis=1)
    leaving = np.logical_and(usable, beyond > tolerance)
    new = np.where(leaving[:, None], np.concatenate([inner_start, inner_end - inner_start], axis=1), boxes)
    return new, leaving, np.logical_not(usable)


def clean_boxes(
    boxes: npt.NDArray[np.float64],
    usable: npt.NDArray[np.bool_],
    owner: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float64],
    image_id: Callable[[int], Any],
    annotation_ids: npt.NDArray[np.int64] | None,
    where: str,
    tolerance: float = ROUNDING_PIXELS,
) -> tuple[TakeBoxes, npt.NDArray[np.bool_]]:
    """Find boxes to clip and to drop; one WARNING counts them and names the first of each.

    Args:
        boxes: (N, 4), x, y, width, height; may be a memory map, is read in pieces.
        usable: those that are not are dropped without a word, their reader has told of them.
        owner: image of each box. sizes: width and height of each image.
        image_id: id of an image by its position.
        annotation_ids: ids of the boxes, for the message; None, or -1 for one that has none: its row.

    Returns:
        a function from rows to their clean boxes, and which boxes to keep; shape (N,).
    """
    kept = np.array(usable, dtype=bool)
    firsts: dict[str, str] = {}
    counts = {"leave": 0, "empty": 0}
    for begin in range(0, len(boxes), _STEP):
        part = np.asarray(boxes[begin : begin + _STEP])
        _, leaving, empty = clipped(part, sizes[owner[begin : begin + len(part)]], tolerance)
        known = np.asarray(usable[begin : begin + len(part)])
        kept[begin : begin + len(part)] &= ~empty
        for kind, mask in (("leave", leaving & known), ("empty", empty & known)):
            counts[kind] += int(mask.sum())
            if kind not in firsts and mask.any():
                row = begin + int(np.flatnonzero(mask)[0])
                image = f"image {image_id(int(owner[row]))!r}"
                firsts[kind] = _described(row, boxes[row], sizes[owner[row]], image, annotation_ids)
    notes = []
    if counts["leave"]:
        notes.append(f"{counts['leave']} ({firsts['leave']}) leave their image and were clipped to it")
    if counts["empty"]:
        notes.append(f"{counts['empty']} ({firsts['empty']}) have no area in their image and were dropped")
    if notes:
        logger.warning("%s: of %d boxes, %s.", where, len(boxes), "; ".join(notes))
    return lambda rows: clipped(np.asarray(boxes[rows]), sizes[owner[rows]], tolerance)[0], kept


def _described(row: int, box: Any, size: Any, image: str, annotation_ids: Any) -> str:
    known = annotation_ids is not None and annotation_ids[row] != -1
    name = f"annotation {int(annotation_ids[row])}" if known else f"annotations[{row}]"
    width, height = (f"{side:g}" if side else "?" for side in size)
    numbers = ", ".join(f"{v:g}" for v in box)
    return f"first: {name} of {image}, bbox [{numbers}], image {width} x {height}"
