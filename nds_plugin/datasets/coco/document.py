"""What stored annotations say of their objects, as columns and as a COCO document, for evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.coco.truth import computed_area
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.store.reader import Objects
from nds_plugin.store.view import StoreView

_NUMBERS = ("flags", "area", "annotation_id")
_ABSENT = {"flags": 0, "area": np.nan, "annotation_id": -1}


@dataclass(frozen=True)
class ObjectColumns:
    """All annotations of a dataset, grouped by image in the dataset's order; arrays of length N.

    Attributes:
        image: position of the image in the dataset.
        bbox: shape (N, 4), x, y, width, height; as in the store (pixels, or shares of the sides).
        category: contiguous class.
        iscrowd, has_mask: bool.
        flags: bits of :mod:`nds_plugin.store.schema`.
        area: square pixels, NaN where the provider does not say.
        annotation_id: the provider's, -1 where there is none.
    """

    image: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    category: npt.NDArray[np.int64]
    iscrowd: npt.NDArray[np.bool_]
    has_mask: npt.NDArray[np.bool_]
    flags: npt.NDArray[np.uint8]
    area: npt.NDArray[np.float64]
    annotation_id: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)


def object_columns(views: Sequence[StoreView]) -> ObjectColumns:
    """The annotations of the records of a dataset, without decoding one."""
    parts, before = [], 0
    for view in views:
        parts += _view_columns(view, before)
        before += len(view)
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(columns["image"], kind="stable")
    return ObjectColumns(**{key: column[order] for key, column in columns.items()})


def _view_columns(view: StoreView, before: int) -> list[dict[str, npt.NDArray[Any]]]:
    places = np.full(len(view.store), -1, dtype=np.int64)
    places[view.rows] = before + np.arange(len(view.rows))
    found = []
    for number in range(view.store.num_batches):
        objects = view.store.objects(number)
        first = view.store.batch_starts[number]
        counts = np.diff(objects.starts)
        image = np.repeat(places[first : first + len(counts)], counts)
        category = objects.columns["category"].astype(np.int64)
        if view.class_map is not None:
            category = view.class_map[category].astype(np.int64)
        kept = (image >= 0) & (category >= 0)
        columns = {
            "image": image,
            "bbox": objects.bbox,
            "category": category,
            "iscrowd": objects.columns["iscrowd"] == 1,
            "has_mask": _has_mask(objects),
            **{key: _column(objects, key) for key in _NUMBERS},
        }
        found.append({key: column[kept] for key, column in columns.items()})
    return found


def _has_mask(objects: Objects) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(objects.bbox), dtype=bool)
    for ragged in (objects.polygons, objects.rle):
        if ragged is not None:
            found |= np.diff(ragged[0]) > 0
    return found


def _column(objects: Objects, key: str) -> npt.NDArray[Any]:
    return objects.columns[key] if key in objects.columns else np.full(len(objects.bbox), _ABSENT[key])


def write_coco_document(
    records: Iterable[dict[str, Any]],
    views: Sequence[StoreView],
    categories: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
) -> None:
    """Write the ground truth of a dataset as a COCO file, for COCO's evaluation.

    The areas are the provider's, else those of the masks, else of the boxes. Written in one go: any
    number of processes may do so at once.

    Args:
        records: of the images, as :class:`~nds_plugin.store.records.RecordDecoder` gives them.
        views: of the same images.
        categories: ``id`` and ``name`` of each class.
        path: of the file.
    """
    areas = object_columns(views).area.tolist()
    ids = [category["id"] for category in categories]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        size = record["height"], record["width"]
        images.append(
            {"id": record["image_id"], "file_name": record["file_name"], "height": size[0], "width": size[1]}
        )
        for annotation in record["annotations"]:
            number = len(annotations)
            content = _coco_annotation(annotation, ids, areas[number], size)
            annotations.append({"id": number + 1, "image_id": record["image_id"], **content})
    document = {"images": images, "annotations": annotations, "categories": list(categories)}
    with atomic_write(path, "w") as file:
        json.dump(document, file)


def _coco_annotation(
    annotation: dict[str, Any], ids: Sequence[int], area: float, size: tuple[int, int]
) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    found = {
        "bbox": [x, y, width, height],
        "category_id": ids[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        found["segmentation"] = {
            "size": segmentation["size"],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        }
    elif segmentation:
        found["segmentation"] = segmentation
    return {**found, "area": area if np.isfinite(area) else computed_area(found, size)}
