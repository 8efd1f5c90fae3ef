"""Detectron2 as the host of the pipeline: its registered datasets, and the processes of its launcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from detectron2.structures import BoxMode
from detectron2.utils import comm

from nds_plugin.d2.data.fingerprints import dataset_fingerprint, image_root
from nds_plugin.d2.data.ground_truth import check_masks, why_no_object
from nds_plugin.d2.data.registration import (
    check_registered,
    dataset_classes,
    dataset_dicts,
    index_dataset,
    raw_dicts,
)
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.datasets.coco.document import object_columns
from nds_plugin.pipeline.host import Boxes
from nds_plugin.source.index import SourceIndex

T = TypeVar("T")


class DetectronHost:
    """A :class:`~nds_plugin.pipeline.host.Host` on ``DatasetCatalog`` and ``comm``."""

    @property
    def rank(self) -> int:
        return int(comm.get_rank())

    @property
    def world_size(self) -> int:
        return int(comm.get_world_size())

    def barrier(self) -> None:
        comm.synchronize()

    def all_gather(self, value: T) -> list[T]:
        return list(comm.all_gather(value))

    def dataset(self, name: str) -> RegisteredDataset:
        check_registered([name])
        return RegisteredDataset(name)


@dataclass(frozen=True)
class RegisteredDataset:
    """A dataset of ``DatasetCatalog`` by its name."""

    name: str

    def index(self) -> SourceIndex:
        return index_dataset(self.name)

    def classes(self) -> list[str]:
        return dataset_classes(self.name)

    def fingerprint(self) -> str:
        return dataset_fingerprint(self.name)

    def image_folder(self) -> str:
        return image_root(self.name)

    def boxes(self) -> Boxes:
        dicts = dataset_dicts(self.name)
        if isinstance(dicts, StoreDataset):
            return _stored_boxes(dicts, self.name)
        sources: list[str] = []
        ids: list[str] = []
        boxes: list[list[float]] = []
        labels: list[int] = []
        for record in dicts:
            for annotation in record.get("annotations", ()):
                if not annotation.get("iscrowd"):
                    sources.append(str(record.get("nds_source", self.name)))
                    ids.append(str(record["image_id"]))
                    boxes.append(_xywh(annotation))
                    labels.append(annotation["category_id"])
        return Boxes(sources, ids, np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64))

    def check(self) -> None:
        check_masks(self.name)

    def why_no_object(self) -> str:
        return why_no_object(raw_dicts(self.name))


def _stored_boxes(dicts: StoreDataset, name: str) -> Boxes:
    """The same without decoding a record."""
    columns = object_columns(dicts.views)
    kept = ~columns.iscrowd
    image = pa.array(columns.image[kept])
    sources = dicts.sources().take(image).to_pylist() if dicts.mark_source else [name] * len(image)
    ids = dicts.image_ids().take(image).to_pylist()
    return Boxes(sources, ids, columns.bbox[kept].astype(np.float64), columns.category[kept])


def _xywh(annotation: dict[str, object]) -> list[float]:
    box = list(annotation["bbox"])  # type: ignore[call-overload]
    return [float(v) for v in BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)]
