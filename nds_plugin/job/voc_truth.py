"""PASCAL VOC's evaluation of boxes, with ground truth from the annotation store, whoever predicts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from tabulate import tabulate

from nds_plugin.datasets.coco.document import object_columns
from nds_plugin.errors import NDSError
from nds_plugin.job.voc_ap import (
    DEFINITIONS,
    THRESHOLDS,
    Floats,
    Ints,
    Truth,
    by_class,
    class_aps,
    mean_known,
)
from nds_plugin.store.schema import DIFFICULT
from nds_plugin.store.view import StoreView

logger = logging.getLogger(__name__)

Prediction = tuple[int, Floats, Floats, Ints]  # position of the image; boxes x0, y0, x1, y1; scores; classes


class VOCTruth:
    """The objects of a dataset.

    Args:
        name: of the dataset, for messages.
        views: its images.
        classes: names of the classes.
        year: 2007: the 11-point definition; later ones: the area.

    Raises:
        NDSError: there is no object that counts.
    """

    def __init__(
        self, name: str, views: Sequence[StoreView], classes: Sequence[str], year: int = 2007
    ) -> None:
        self.name, self._classes = name, list(classes)
        self._official = "11point" if year == 2007 else "area"
        ids = pa.concat_arrays([view.image_ids() for view in views]).to_pylist()
        self._positions = {image_id: i for i, image_id in enumerate(ids)}
        columns = object_columns(views)
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

    def position(self, image_id: object) -> int:
        """Where an image stands.

        Raises:
            NDSError: it is not of the dataset.
        """
        found = self._positions.get(str(image_id))
        if found is None:
            raise NDSError(
                f"dataset {self.name!r} has no image {image_id!r}, but there are predictions for it."
            )
        return found

    def results(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """In percent: "AP50_11point" and "AP50_area", also per class as "AP50_area-CLASS"; "AP50", "AP75", "AP"
        (mean over overlaps of 0.5 to 0.95), and "AP-CLASS" by the definition of the dataset's year.

        A class without objects, or with difficult ones only, is NaN and left out of means.
        """
        detections = by_class(list(predictions), len(self._classes))
        aps = {name: np.empty((len(self._classes), len(THRESHOLDS))) for name in DEFINITIONS}
        for i, (mine, truth) in enumerate(zip(detections, self._truth)):
            for name, values in class_aps(mine, truth, [t / 100 for t in THRESHOLDS]).items():
                aps[name][i] = values
        results = self._results(aps)
        logger.info("VOC evaluation of %s:\n%s", self.name, self._table(aps))
        for name, title in DEFINITIONS.items():
            logger.info("mAP at overlap 0.5, %s: %.2f", title, results[f"AP50_{name}"])
        return results

    def _results(self, aps: dict[str, Floats]) -> dict[str, float]:
        official = 100 * aps[self._official]
        results = {"AP": mean_known(official)}
        for threshold in (50, 75):
            results[f"AP{threshold}"] = mean_known(official[:, THRESHOLDS.index(threshold)])
        for name in DEFINITIONS:
            results[f"AP50_{name}"] = mean_known(100 * aps[name][:, 0])
        for i, cls in enumerate(self._classes):
            results[f"AP-{cls}"] = mean_known(official[i])
            for name in DEFINITIONS:
                results[f"AP50_{name}-{cls}"] = float(100 * aps[name][i, 0])
        return results

    def _table(self, aps: dict[str, Floats]) -> str:
        rows = [
            [cls, int((~truth.difficult).sum()), int(truth.difficult.sum())]
            + [100 * aps[name][i, 0] for name in DEFINITIONS]
            for i, (cls, truth) in enumerate(zip(self._classes, self._truth))
        ]
        headers = ["class", "objects", "difficult", *(f"AP50, {title}" for title in DEFINITIONS.values())]
        return tabulate(rows, headers=headers, floatfmt=".2f")
