"""The images to train on, of one or several registered datasets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from tabulate import tabulate

from nds_plugin.d2.data.catalog import joined
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.ground_truth import why_no_object
from nds_plugin.d2.data.registration import check_registered, raw_dicts
from nds_plugin.errors import NDSError
from nds_plugin.selection.streams import is_wide

logger = logging.getLogger(__name__)

# How sources of different classes become one dataset, of a subset and of a stream alike.
DRAW_BY_NAME = "nds draw --name NAME (--mode subset or stream)"


@dataclass(frozen=True)
class Records:
    """The images to train on.

    Attributes:
        dicts: of all datasets.
        sources: all sources of the datasets, also those of which no image is left.
    """

    dicts: DatasetDicts
    sources: frozenset[str]


def load_records(names: Sequence[str], filter_empty: bool) -> Records:
    """The images of several datasets.

    Raises:
        NDSError: an unknown dataset, one without an image to train on, or datasets of different
            classes.
    """
    check_registered(names)
    whole = [raw_dicts(name) for name in names]
    parts = [_to_train_on(name, dicts, filter_empty) for name, dicts in zip(names, whole)]
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    for name in names[1:]:
        if classes[name] != classes[names[0]]:
            raise NDSError(
                f"the datasets {names[0]!r} and {name!r} have different classes: name in DATASETS.TRAIN the one "
                f"dataset nds_NAME that {DRAW_BY_NAME} makes, which unites the classes by name."
            )
    sources = frozenset(name for dicts in whole for name in pc.unique(dicts.sources()).to_pylist())
    return Records(joined(parts), sources)


def _to_train_on(name: str, dicts: DatasetDicts, filter_empty: bool) -> DatasetDicts:
    """The images of a dataset; without those that have no instance if told so."""
    before = len(dicts)
    dicts = dicts.annotated() if filter_empty else dicts
    if len(dicts) == 0:
        raise NDSError(f"dataset {name!r} has no image to train on: {why_no_object(raw_dicts(name))}.")
    if comm.is_main_process():
        _log_instances(name, dicts)
    logger.info(
        "%s: %d images to train on, %d without an instance left out.", name, len(dicts), before - len(dicts)
    )
    return dicts


def _log_instances(name: str, dicts: DatasetDicts) -> None:
    """Instances of each class, most frequent first, as Detectron2's loaders log them."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        return
    counts = dicts.class_counts(len(classes))
    rows = [(classes[i], int(counts[i])) for i in np.argsort(-counts, kind="stable")]
    wide = [sum(rows[i : i + 3], ()) for i in range(0, len(rows), 3)]
    table = tabulate(wide, headers=["category", "#instances"] * min(3, len(rows)), tablefmt="pipe")
    logger.info("%s: %d instances of %d classes:\n%s", name, int(counts.sum()), len(classes), table)


def orientations(records: DatasetDicts, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """:func:`is_wide` of each image; a WARNING counts those whose size is not known."""
    sizes = records.sizes()
    if sizes is None:
        raise NDSError(
            f"the dicts of {', '.join(names)} do not all have 'width' and 'height': add them, or set "
            "DATALOADER.ASPECT_RATIO_GROUPING False."
        )
    unknown = sizes[:, 0] == 0
    if unknown.any():
        logger.warning(
            "%d of %d images have no size in their annotations: their batches are not grouped by orientation.",
            int(unknown.sum()),
            len(unknown),
        )
    return is_wide(sizes)
