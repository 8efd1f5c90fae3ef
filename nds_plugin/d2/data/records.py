"""The images to train on, of one or several registered datasets: dicts in a list, or a store that decodes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from detectron2.data import MetadataCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.utils import comm
from tabulate import tabulate

from nds_plugin.d2.data.ground_truth import why_no_object
from nds_plugin.d2.data.registration import check_registered, raw_dicts
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)

# How sources of different classes become one dataset, of a subset and of a stream alike.
DRAW_BY_NAME = "nds draw --name NAME (--mode subset or stream)"


@dataclass(frozen=True)
class Records:
    """The images to train on.

    Attributes:
        dicts: a list of Detectron2's dicts, or a StoreDataset that decodes them.
        names: the dataset that each is of, in a list; nothing for a StoreDataset, which knows them.
        sources: all sources of the datasets, also those of which no image is left.
    """

    dicts: Sequence[dict[str, Any]]
    names: Sequence[str] = ()
    sources: frozenset[str] = frozenset()

    def identities(self) -> tuple[pa.Array, pa.Array]:
        """Source and image id of each, as text."""
        if isinstance(self.dicts, StoreDataset):
            return self.dicts.sources(), self.dicts.image_ids()
        sources = [record.get("nds_source", name) for name, record in zip(self.names, self.dicts)]
        ids = [str(record["image_id"]) for record in self.dicts]
        return pa.array(sources, pa.string()), pa.array(ids, pa.string())

    def sizes(self) -> npt.NDArray[np.int32] | None:
        """Width and height, 0 where not known, shape (N, 2); None where dicts lack them."""
        if isinstance(self.dicts, StoreDataset):
            return self.dicts.sizes()
        if not all("width" in record and "height" in record for record in self.dicts):
            return None
        return np.array([[record["width"], record["height"]] for record in self.dicts], dtype=np.int32)


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
    sources = frozenset().union(*(_sources(name, dicts) for name, dicts in zip(names, whole)))
    stored = [part for part in parts if isinstance(part, StoreDataset)]
    if len(stored) == len(parts):
        return Records(StoreDataset.joined(stored), sources=sources)
    listed = [(name, record) for name, part in zip(names, parts) for record in part]
    return Records([record for _, record in listed], [name for name, _ in listed], sources)


def _sources(name: str, dicts: Sequence[dict[str, Any]]) -> set[str]:
    if isinstance(dicts, StoreDataset):
        return {view.source for view in dicts.views}
    return {record.get("nds_source", name) for record in dicts}


def _to_train_on(name: str, dicts: Sequence[dict[str, Any]], filter_empty: bool) -> Sequence[dict[str, Any]]:
    """A StoreDataset, or a list of dicts; without images that have no instance if told so."""
    before = len(dicts)
    if isinstance(dicts, StoreDataset):
        dicts = dicts.annotated() if filter_empty else dicts
    elif filter_empty and before and "annotations" in dicts[0]:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if len(dicts) == 0:
        raise NDSError(f"dataset {name!r} has no image to train on: {why_no_object(raw_dicts(name))}.")
    if isinstance(dicts, StoreDataset) and comm.is_main_process():
        _log_instances(name, dicts)
    logger.info(
        "%s: %d images to train on, %d without an instance left out.", name, len(dicts), before - len(dicts)
    )
    return dicts


def _log_instances(name: str, dicts: StoreDataset) -> None:
    """Instances of each class, most frequent first, as Detectron2 logs them of a list."""
    classes = MetadataCatalog.get(name).thing_classes
    counts = dicts.class_counts(len(classes))
    rows = [(classes[i], int(counts[i])) for i in np.argsort(-counts, kind="stable")]
    wide = [sum(rows[i : i + 3], ()) for i in range(0, len(rows), 3)]
    table = tabulate(wide, headers=["category", "#instances"] * min(3, len(rows)), tablefmt="pipe")
    logger.info("%s: %d instances of %d classes:\n%s", name, int(counts.sum()), len(classes), table)


def is_wide(records: Records, names: Sequence[str]) -> npt.NDArray[np.int8]:
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
