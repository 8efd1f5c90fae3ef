"""PASCAL VOC's average precision of boxes for Detectron2, with ground truth from the annotation store.

Its rules and its two definitions are those of :mod:`nds_plugin.job.voc_ap`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.job.voc_truth import Prediction, VOCTruth


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
        self._truth = VOCTruth(name, dataset.views, classes, year)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[Prediction] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take the predictions of some images."""
        for record, output in zip(inputs, outputs):
            position = self._truth.position(record["image_id"])
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
        return OrderedDict(bbox=self._truth.results([p for part in gathered for p in part]))
