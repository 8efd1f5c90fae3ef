"""The images to train on, of one or several registered datasets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from tabulate import tabulate

from nds_plugin.d2.data.catalog import joined
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.registration import check_registered, raw_dicts
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)


def load_records(names: Sequence[str], filter_empty: bool) -> DatasetDicts:
    """The images of several datasets.

    Raises:
        NDSError: an unknown dataset, one without an image to train on, or datasets of different
            classes.
    """
    check_registered(names)
    parts = [_dataset(name, filter_empty) for name in names]
    classes = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    for name in names[1:]:
        if classes[name] != classes[names[0]]:
            raise NDSError(
                f"the datasets {names[0]!r} and {name!r} have different classes: name in DATASETS.TRAIN "
                "the drawn dataset (nds_NAME of tools/draw_subset.py --name), which unites the classes by name."
            )
    return joined(parts)


def _dataset(name: str, filter_empty: bool) -> DatasetDicts:
    """The images of a dataset; without those that have no instance if told so."""
    dicts = raw_dicts(name)
    before = len(dicts)
    dicts = dicts.annotated() if filter_empty else dicts
    if len(dicts) == 0:
        raise _nothing_to_train_on(name)
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


def _nothing_to_train_on(name: str) -> NDSError:
    return NDSError(
        f"dataset {name!r} has no image to train on: none has an annotation whose box has an area."
    )


def is_wide(records: DatasetDicts, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """1 where an image is wider than tall. Where the size is not known it is taken as wide, and counted."""
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
    return ((sizes[:, 0] > sizes[:, 1]) | unknown).astype(np.int8)
