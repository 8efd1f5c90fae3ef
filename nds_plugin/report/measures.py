"""What is measured of a run on its target: AP of a detector, accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nds_plugin.errors import NDSError

METRICS = {"AP_bb": "box AP", "AP50_bb": "box AP50", "AP": "mask AP", "AP50": "mask AP50"}
ACCURACIES = {"top1": "top-1", "mean_per_class": "mean per class"}
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measures:
    """How results are shown.

    Attributes:
        means: fields of a summary, with the heading of each.
        per_class: the field with a number for each class.
        of_class: what that number is.
        told: what the numbers are.
    """

    means: Mapping[str, str]
    per_class: str
    of_class: str
    told: str


_AP = "COCO-style AP on the target's test images, in percent"
MASKS = Measures(METRICS, "per_category", "mask AP per category", _AP)
BOXES = Measures(METRICS, "per_category_bb", "box AP per category", _AP)
CLASSIFIER = Measures(
    ACCURACIES, "per_class", "top-1 per class", "Accuracy on the target's test images, in percent"
)


def measures_of(rows: Rows) -> Measures:
    """The measures of runs of one kind; of detectors per category mask AP, or box AP where no masks were evaluated.

    Args:
        rows: summaries by the name of the run.

    Raises:
        NDSError: a detector and a classifier.
    """
    classifiers = [name for name, row in rows.items() if "top1" in row]
    if classifiers:
        detectors = [name for name in rows if name not in classifiers]
        if detectors:
            raise NDSError(
                f"report: {classifiers[0]} is the run of a classifier and {detectors[0]} that of a detector: compare like "
                "with like."
            )
        return CLASSIFIER
    return MASKS if any(row.get("per_category") for row in rows.values()) else BOXES
