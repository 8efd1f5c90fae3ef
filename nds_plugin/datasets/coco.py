"""COCO json files as sources: the index of their images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.datasets.coco_json import box_array, no_gc, read_coco_json, size_array, sorted_categories
from nds_plugin.datasets.folder import check_files, index_folder
from nds_plugin.index import NO_LABEL, SourceIndex

__all__ = [
    "check_files",
    "default_source",
    "index_coco",
    "index_folder",
    "main_classes",
    "no_gc",
    "read_coco_json",
    "sorted_categories",
]


@no_gc()
def index_coco(
    json_file: str | os.PathLike[str], image_root: str | os.PathLike[str], source: str | None = None
) -> SourceIndex:
    """Index the images of a COCO file, in ascending order of their ids.

    An image's label is its main class: the class with the largest summed annotation area in it,
    crowds left out. Classes are in ascending order of the category ids, as in Detectron2. A file
    without annotations (COCO's ``image_info_*``) gives images without a label.

    Args:
        source: name of the source; default :func:`default_source` of the file's path.
    """
    document = read_coco_json(json_file, require=("images",))
    images = sorted(document["images"], key=lambda image: image["id"])
    categories = sorted_categories(document)
    sizes = {key: size_array(images, key, json_file) for key in ("width", "height")}
    licenses = {
        entry.get("id"): str(entry.get("name") or entry.get("url") or "")
        for entry in document.get("licenses") or []
        if isinstance(entry, dict)
    }
    columns = {
        "source": pa.array([source or default_source(json_file)] * len(images), pa.string()),
        "image_id": pa.array([str(image["id"]) for image in images], pa.string()),
        "file_name": [os.path.join(image_root, image["file_name"]) for image in images],
        "width": sizes["width"].astype(np.int32),
        "height": sizes["height"].astype(np.int32),
        "label": _labels(document, images, categories, json_file),
        "url": [str(image.get("coco_url") or image.get("flickr_url") or "") for image in images],
        "license": [licenses.get(image.get("license"), "") for image in images],
        "checksum": [str(image.get("checksum") or "") for image in images],
    }
    return SourceIndex(pa.table(columns), [category["name"] for category in categories])


def default_source(json_file: str | os.PathLike[str]) -> str:
    """``FOLDER_STEM`` of an annotation file, FOLDER being the first that is not "annotations".

    >>> default_source("coco/annotations/instances_train2017.json")
    'coco_instances_train2017'
    """
    path = Path(json_file).absolute()
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    return f"{folder.name}_{path.stem}" if folder.name else path.stem


def main_classes(
    images: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
    areas: npt.NDArray[np.float64],
    num_images: int,
) -> npt.NDArray[np.int32]:
    """The class with the largest summed area in each image; ties go to the lower class.

    Args:
        images, classes, areas: shape (annotations,): position of the image, position of the class,
            area in square pixels.

    Returns:
        shape (num_images,), ``NO_LABEL`` where an image has no annotation.
    """
    labels = np.full(num_images, NO_LABEL, dtype=np.int32)
    if len(images) == 0:
        return labels
    order = np.lexsort((classes, images))
    images, classes, areas = images[order], classes[order], areas[order]
    first = np.r_[True, (np.diff(images) != 0) | (np.diff(classes) != 0)]
    sums = np.add.reduceat(areas, np.flatnonzero(first))
    images, classes = images[first], classes[first]
    order = np.lexsort((-classes, sums, images))
    images, classes = images[order], classes[order]
    last = np.r_[np.diff(images) != 0, True]
    labels[images[last]] = classes[last]
    return labels


def _labels(
    document: dict[str, Any],
    images: list[Any],
    categories: list[dict[str, Any]],
    path: str | os.PathLike[str],
) -> npt.NDArray[np.int32]:
    image_position = {image["id"]: i for i, image in enumerate(images)}
    class_position = {category["id"]: i for i, category in enumerate(categories)}
    annotations = [a for a in document["annotations"] if not a.get("iscrowd")]
    count = len(annotations)
    owners = np.fromiter((image_position[a["image_id"]] for a in annotations), np.int64, count)
    classes = np.fromiter((class_position[a["category_id"]] for a in annotations), np.int64, count)
    areas = box_array(annotations, path)[:, 2:].prod(axis=1)
    stated = [a.get("area") for a in annotations]
    given = np.array([v if type(v) in (int, float) else 0.0 for v in stated], dtype=np.float64)
    areas = np.where(np.isfinite(given) & (given > 0), given, areas)
    return main_classes(owners, classes, areas, len(images))
