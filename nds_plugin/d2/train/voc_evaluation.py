"""PASCAL VOC's average precision of boxes, with ground truth from the annotation store.

The rules are the devkit's: detections of a class go by falling score; each belongs to the object of
its image that it overlaps most; the first on an object is right where the overlap is above the
threshold, further ones are wrong; one on a difficult object counts as neither, and difficult
objects need not be found. Coordinates are Detectron2's, in which the devkit's overlap, computed
from pixel numbers that count from 1 and lie inside the box, is intersection over union.

Two definitions of average precision are reported, each under its name: the mean of the best
precision at eleven recalls (VOC 2007's) and the area under the curve (VOC 2010's and later).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from nds_plugin.d2.data.ground_truth import object_columns
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.errors import NDSError
from nds_plugin.store.schema import DIFFICULT

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

THRESHOLDS = tuple(range(50, 100, 5))  # percent of overlap, as in Detectron2's own evaluator
_NAMES = {"11point": "11-point", "area": "area under the curve"}


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


class VOCEvaluator(DatasetEvaluator):
    """VOC's mAP of a registered dataset.

    ``evaluate`` gives ``{"bbox": {...}}`` in percent: "AP50_11point" and "AP50_area", also per class
    as "AP50_area-CLASS"; "AP50", "AP75", "AP" (mean over overlaps of 0.5 to 0.95), and "AP-CLASS" by
    the definition of the dataset's year (11-point for 2007), which are the keys of Detectron2's own
    evaluator. A class without objects, or with difficult ones only, is NaN and left out of means.

    Args:
        name: of the dataset, for messages.
        dataset: its records, from a store.
        classes: names of the classes.
        year: 2007: the 11-point definition; later ones: the area.

    Raises:
        NDSError: there is no object that counts.
    """

    def __init__(self, name: str, dataset: StoreDataset, classes: Sequence[str], year: int = 2007) -> None:
        self._name, self._classes = name, list(classes)
        self._official = "11point" if year == 2007 else "area"
        self._positions = {image_id: i for i, image_id in enumerate(dataset.image_ids().to_pylist())}
        columns = object_columns(dataset)
        boxes = columns.bbox.copy()
        boxes[:, 2:] += boxes[:, :2]
        difficult = columns.flags & DIFFICULT > 0
        if difficult.all():
            raise NDSError(
                f"dataset {name!r} has no annotations to evaluate against (difficult ones left out)."
            )
        self._truth = [
            Truth(columns.image[mine], boxes[mine], difficult[mine])
            for mine in (columns.category == i for i in range(len(self._classes)))
        ]
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[tuple[int, Floats, Floats, Ints]] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take the predictions of some images."""
        for record, output in zip(inputs, outputs):
            position = self._positions.get(str(record["image_id"]))
            if position is None:
                raise NDSError(
                    f"dataset {self._name!r} has no image {record['image_id']!r}, but there are predictions for it."
                )
            found = output["instances"].to("cpu")
            self._predictions.append(
                (
                    position,
                    found.pred_boxes.tensor.numpy().astype(np.float64),
                    found.scores.numpy().astype(np.float64),
                    found.pred_classes.numpy().astype(np.int64),
                )
            )

    def evaluate(self) -> OrderedDict[str, Any] | None:
        """The results, on the main process; None on others."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        detections = _by_class([p for part in gathered for p in part], len(self._classes))
        aps = {name: np.empty((len(self._classes), len(THRESHOLDS))) for name in _NAMES}
        for i, (mine, truth) in enumerate(zip(detections, self._truth)):
            for name, values in class_aps(mine, truth, [t / 100 for t in THRESHOLDS]).items():
                aps[name][i] = values
        results = self._results(aps)
        logger.info("VOC evaluation of %s:\n%s", self._name, self._table(aps))
        for name, title in _NAMES.items():
            logger.info("mAP at overlap 0.5, %s: %.2f", title, results[f"AP50_{name}"])
        return OrderedDict(bbox=results)

    def _results(self, aps: dict[str, Floats]) -> dict[str, float]:
        official = 100 * aps[self._official]
        results = {"AP": _mean(official)}
        for threshold in (50, 75):
            results[f"AP{threshold}"] = _mean(official[:, THRESHOLDS.index(threshold)])
        for name in _NAMES:
            results[f"AP50_{name}"] = _mean(100 * aps[name][:, 0])
        for i, cls in enumerate(self._classes):
            results[f"AP-{cls}"] = _mean(official[i])
            for name in _NAMES:
                results[f"AP50_{name}-{cls}"] = float(100 * aps[name][i, 0])
        return results

    def _table(self, aps: dict[str, Floats]) -> str:
        rows = [
            [cls, int((~truth.difficult).sum()), int(truth.difficult.sum())]
            + [100 * aps[name][i, 0] for name in _NAMES]
            for i, (cls, truth) in enumerate(zip(self._classes, self._truth))
        ]
        headers = ["class", "objects", "difficult", *(f"AP50, {title}" for title in _NAMES.values())]
        return tabulate(rows, headers=headers, floatfmt=".2f")


def class_aps(detections: Detections, truth: Truth, thresholds: Sequence[float]) -> dict[str, list[float]]:
    """Average precision of one class at some overlaps, by both definitions, in [0, 1].

    NaN where no object counts. Detections of equal score go in the order in which they are given.
    """
    positives = int((~truth.difficult).sum())
    if positives == 0:
        return {name: [float("nan")] * len(thresholds) for name in _NAMES}
    order = np.argsort(-detections.scores, kind="stable")
    overlap, nearest = best_overlaps(detections.image[order], detections.boxes[order], truth)
    found: dict[str, list[float]] = {name: [] for name in _NAMES}
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


def _by_class(predictions: list[tuple[int, Floats, Floats, Ints]], num_classes: int) -> list[Detections]:
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


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
