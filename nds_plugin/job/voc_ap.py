"""PASCAL VOC's average precision of boxes, by both of its definitions: numpy in, numbers out.

The rules are the devkit's: detections of a class go by falling score; each belongs to the object of
its image that it overlaps most; the first on an object is right where the overlap is above the
threshold, further ones are wrong; one on a difficult object counts as neither, and difficult
objects need not be found. In coordinates without the devkit's count of pixels from 1, its overlap is
intersection over union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

THRESHOLDS = tuple(range(50, 100, 5))  # percent of overlap, as in Detectron2's own evaluator
DEFINITIONS = {"11point": "11-point", "area": "area under the curve"}


@dataclass(frozen=True)
class Detections:
    """Boxes of one class: image (N,), boxes (N, 4) as x0, y0, x1, y1, scores (N,)."""

    image: Ints
    boxes: Floats
    scores: Floats


@dataclass(frozen=True)
class Truth:
    """Objects of one class: image (N,), ascending; boxes (N, 4) as x0, y0, x1, y1; difficult (N,)."""

    image: Ints
    boxes: Floats
    difficult: Mask


def class_aps(detections: Detections, truth: Truth, thresholds: Sequence[float]) -> dict[str, list[float]]:
    """Average precision of one class at some overlaps, by both definitions, in [0, 1].

    NaN where no object counts. Detections of equal score go in the order in which they are given.
    """
    positives = int((~truth.difficult).sum())
    if positives == 0:
        return {name: [float("nan")] * len(thresholds) for name in DEFINITIONS}
    order = np.argsort(-detections.scores, kind="stable")
    overlap, nearest = best_overlaps(detections.image[order], detections.boxes[order], truth)
    found: dict[str, list[float]] = {name: [] for name in DEFINITIONS}
    for threshold in thresholds:
        right, wrong = outcomes(overlap, nearest, truth.difficult, threshold)
        recall = np.cumsum(right) / positives
        precision = np.cumsum(right) / np.maximum(np.cumsum(right) + np.cumsum(wrong), 1)
        found["11point"].append(ap_11point(recall, precision))
        found["area"].append(ap_area(recall, precision))
    return found


def best_overlaps(image: Ints, boxes: Floats, truth: Truth) -> tuple[Floats, Ints]:
    """Of each detection the highest overlap with an object of its image, and which object it is.

    Returns:
        overlaps, -1 where the image has no object, and positions in ``truth``; ties go to the first.
    """
    first = np.searchsorted(truth.image, image, side="left")
    counts = np.searchsorted(truth.image, image, side="right") - first
    pair = np.repeat(np.arange(len(image)), counts)  # the detection of each pair
    other = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(len(pair))
    overlap = _overlaps(boxes[pair], truth.boxes[other])
    best, nearest = np.full(len(image), -1.0), np.zeros(len(image), dtype=np.int64)
    np.maximum.at(best, pair, overlap)
    at_best = np.flatnonzero(overlap == best[pair])
    owner, where = np.unique(pair[at_best], return_index=True)
    nearest[owner] = other[at_best[where]]
    return best, nearest


def outcomes(overlap: Floats, nearest: Ints, difficult: Mask, threshold: float) -> tuple[Mask, Mask]:
    """Which detections, in falling order of score, are right and which are wrong; the others are ignored."""
    matched = overlap > threshold
    counted = matched.copy()
    counted[matched] = ~difficult[nearest[matched]]
    rows = np.flatnonzero(counted)
    _, firsts = np.unique(nearest[rows], return_index=True)
    right = np.zeros(len(overlap), dtype=bool)
    right[rows[firsts]] = True
    return right, ~matched | (counted & ~right)


def ap_11point(recall: Floats, precision: Floats) -> float:
    """Mean of the highest precision at a recall of t or more, over t = 0, 0.1, ..., 1 (VOC 2007)."""
    best = [precision[recall >= t].max(initial=0.0) for t in np.arange(0.0, 1.1, 0.1)]
    return float(np.sum(best) / 11)


def ap_area(recall: Floats, precision: Floats) -> float:
    """Area under the curve of the highest precision at each recall or more (VOC 2010 and later)."""
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def _overlaps(a: Floats, b: Floats) -> Floats:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inner = np.maximum(sides, 0.0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inner
    return np.asarray(inner / np.maximum(union, np.finfo(np.float64).tiny))


def by_class(predictions: list[tuple[int, Floats, Floats, Ints]], num_classes: int) -> list[Detections]:
    """Detections of some images, given as image, boxes (N, 4), scores (N,) and classes (N,), class by class."""
    # In the order of the images, whichever process had them: equal scores then go alike on any number.
    predictions = sorted(predictions, key=lambda p: p[0])
    image = np.concatenate([np.zeros(0, np.int64), *(np.full(len(p[2]), p[0]) for p in predictions)])
    boxes = np.concatenate([np.zeros((0, 4)), *(p[1] for p in predictions)])
    scores = np.concatenate([np.zeros(0), *(p[2] for p in predictions)])
    classes = np.concatenate([np.zeros(0, np.int64), *(p[3] for p in predictions)])
    return [
        Detections(image[mine], boxes[mine], scores[mine])
        for mine in (classes == i for i in range(num_classes))
    ]


def mean_known(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN where none is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
