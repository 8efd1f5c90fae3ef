"""A registered dataset whose function gives its dicts themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from detectron2.data import DatasetFromList
from detectron2.structures import BoxMode

from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.errors import NDSError
from nds_plugin.store.boxes import clipped

logger = logging.getLogger(__name__)


class ListDataset(DatasetDicts):
    """The dicts of a list, which is never changed.

    Args:
        records: Detectron2's dicts, N of them.
        sources: name of the dataset that each is of, N of them.
    """

    filtered_by_detectron2 = True

    def __init__(self, records: list[dict[str, Any]], sources: Sequence[str]) -> None:
        self._records = records
        self._sources = sources

    def check(self, name: str, classes: Sequence[str] | None) -> None:
        """See that annotations can be used, as far as that is seen at once.

        Args:
            name: of the dataset. classes: of the dataset, where they are known.

        Raises:
            NDSError: a class that is none, a box of no mode, or run lengths of another size than their image.
        """
        count = None if classes is None else len(classes)
        for record in self._records:
            size = record.get("height"), record.get("width")
            for annotation in record.get("annotations", ()):
                fault = _fault(annotation, count, size)
                if fault:
                    raise NDSError(f"dataset {name!r}, image {record.get('image_id')!r}: {fault}")

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._records[index]

    def image_ids(self) -> pa.Array:
        return pa.array([str(record["image_id"]) for record in self._records], pa.string())

    def sources(self) -> pa.Array:
        return pa.array(self._sources, pa.string())

    def sizes(self) -> npt.NDArray[np.int32] | None:
        if not all("width" in record and "height" in record for record in self._records):
            return None
        sizes = [[record["width"], record["height"]] for record in self._records]
        return np.array(sizes, dtype=np.int32).reshape(-1, 2)

    def class_counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        classes = [a["category_id"] for record in self._records for a in _instances(record)]
        return np.bincount(np.array(classes, np.int64), minlength=num_classes)

    def take(self, rows: npt.NDArray[np.integer]) -> ListDataset:
        chosen = np.asarray(rows).tolist()
        return ListDataset([self._records[i] for i in chosen], [self._sources[i] for i in chosen])

    def choose(self, image_ids: pa.Array) -> ListDataset:
        wanted = set(image_ids.to_pylist())
        own = self.image_ids().to_pylist()
        return self.take(np.array([i for i, name in enumerate(own) if name in wanted], np.int64))

    def annotated(self) -> ListDataset:
        if (
            not self._records or "annotations" not in self._records[0]
        ):  # nothing is known of any, as in Detectron2
            return self
        kept = [i for i, record in enumerate(self._records) if _instances(record)]
        return self.take(np.array(kept, np.int64))

    def relabelled(self, new_class: npt.NDArray[np.int32], label_space: int, source: str) -> ListDataset:
        records = [_relabelled(record, new_class, label_space, source) for record in self._records]
        return ListDataset(records, [source] * len(records))

    def clean(self, name: str) -> ListDataset:
        if not self._records:
            raise NDSError(f"dataset {name!r} has no images.")
        return ListDataset(_with_clean_boxes(self._records, name), self._sources)

    def plain(self) -> list[dict[str, Any]]:
        return self._records

    def packed(self) -> Any:
        return DatasetFromList(self._records, copy=False)


def _fault(annotation: dict[str, Any], num_classes: int | None, size: tuple[Any, Any]) -> str:
    category = annotation.get("category_id")
    if num_classes is not None and category is not None and not 0 <= category < num_classes:
        return f"category_id {category}, but the {num_classes} thing_classes are numbered from 0 to {num_classes - 1}."
    if "bbox_mode" not in annotation and "bbox" in annotation:
        return f"the box {annotation['bbox']} has no 'bbox_mode': BoxMode.XYXY_ABS or BoxMode.XYWH_ABS."
    mask = annotation.get("segmentation")
    if isinstance(mask, dict) and None not in size and tuple(mask.get("size", size)) != size:
        return f"a run-length mask of size {list(mask['size'])}, but the image has height and width {list(size)}."
    return ""


def _instances(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [annotation for annotation in record.get("annotations", ()) if not annotation.get("iscrowd")]


def _relabelled(
    record: dict[str, Any], new_class: npt.NDArray[np.int32], label_space: int, source: str
) -> dict[str, Any]:
    annotations = []
    for annotation in record.get("annotations", []):
        category = int(new_class[annotation["category_id"]])
        if category >= 0:
            annotations.append({**annotation, "category_id": category})
    return {**record, "annotations": annotations, "nds_source": source, "label_space": label_space}


def _with_clean_boxes(dicts: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The dicts, with clean copies of those that hold an unusable box; the rule is that of the stores."""
    places, boxes, limits = [], [], []
    for number, record in enumerate(dicts):
        size = float(record.get("width") or 0), float(record.get("height") or 0)
        for position, annotation in enumerate(record.get("annotations", ())):
            if annotation.get("bbox_mode") in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
                places.append((number, position))
                boxes.append(_corner_and_size(annotation))
                limits.append(size)
    if not boxes:
        return list(dicts)
    clean, leaving, empty = clipped(np.array(boxes, np.float64), np.array(limits, np.float64))
    cleaned = list(dicts)
    for row in np.flatnonzero(leaving | empty).tolist():
        number, position = places[row]
        if cleaned[number] is dicts[number]:
            cleaned[number] = {**dicts[number], "annotations": list(dicts[number]["annotations"])}
        x, y, width, height = clean[row].tolist()
        new = {"bbox": [x, y, x + width, y + height], "bbox_mode": BoxMode.XYXY_ABS}
        annotations = cleaned[number]["annotations"]
        annotations[position] = None if empty[row] else {**annotations[position], **new}
    for number in {places[row][0] for row in np.flatnonzero(empty).tolist()}:
        cleaned[number]["annotations"] = [a for a in cleaned[number]["annotations"] if a is not None]
    if leaving.any() or empty.any():
        what = "%d boxes leave their image and were clipped, %d have no area and were dropped."
        logger.warning("dataset %r: " + what, name, int(leaving.sum()), int(empty.sum()))
    return cleaned


def _corner_and_size(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in annotation["bbox"])
    return (a, b, c, d) if annotation["bbox_mode"] == BoxMode.XYWH_ABS else (a, b, c - a, d - b)
