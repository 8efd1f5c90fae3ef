"""The source index of a store: its images with link, licence, checksum and main class."""

from __future__ import annotations

import logging
import os

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.store import AnnotationStore, file_names

logger = logging.getLogger(__name__)


def index_store(store: AnnotationStore, image_root: str | os.PathLike[str], source: str) -> SourceIndex:
    """Index the images of a store, in its order.

    An image's label is its main class: the class with the largest summed annotation area in it,
    crowds left out; in datasets of whole images, the image's class. A store whose file has annotations, none of
    which gives a label, is told in a WARNING: it would pass for one without annotations.

    Args:
        image_root: folder that the images' file names are relative to.
        source: name of the source.
    """
    images = len(store)
    labels = _labels(store)
    if (read := store.header["annotations_read"]) and (labels == NO_LABEL).all():
        crowds, lost = store.header["annotations"], read - store.header["annotations"]
        logger.warning(
            "%s: none of its %d images has an annotated object: of %d annotations %d are crowds, and %d have no area "
            "in their image. It is treated as a source without annotations here; the main job refuses it.",
            *(source, images, read, crowds, lost),
        )
    columns = {
        "source": pa.array([source]).dictionary_encode().take(pa.array(np.zeros(images, np.int64))),
        "image_id": store.text_column("image_id"),
        "file_name": file_names.join_names(
            file_names.image_root(store, image_root), store.text_column("file_name")
        ),
        "width": store.column("width"),
        "height": store.column("height"),
        "label": labels,
        "url": store.text_column("url"),
        "license": store.text_column("license"),
        "checksum": store.text_column("checksum"),
    }
    return SourceIndex(pa.table(columns), store.classes)


def _labels(store: AnnotationStore) -> npt.NDArray[np.int32]:
    if store.has_labels:
        return store.column("label")
    parts = []
    for number in range(store.num_batches):
        objects = store.objects(number)
        images = len(objects.starts) - 1
        owners = np.repeat(np.arange(images), np.diff(objects.starts))
        areas = objects.bbox[:, 2] * objects.bbox[:, 3]
        if "area" in objects.columns:
            given = objects.columns["area"]
            areas = np.where(np.isfinite(given) & (given > 0), given, areas)
        kept = objects.columns["iscrowd"] != 1
        classes = objects.columns["category"].astype(np.int64)
        parts.append(main_classes(owners[kept], classes[kept], areas[kept], images))
    return np.concatenate(parts)


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
    # One key instead of two: images come nearly sorted, which a stable sort of one key makes use of.
    width = int(classes.max()) + 1
    key = images * width + classes
    order = np.argsort(key, kind="stable")
    key, areas = key[order], areas[order]
    first = np.flatnonzero(np.r_[True, np.diff(key) != 0])
    sums, owners, kinds = np.add.reduceat(areas, first), key[first] // width, key[first] % width
    begins = np.flatnonzero(np.r_[True, np.diff(owners) != 0])
    best = np.maximum.reduceat(sums, begins)
    candidates = np.flatnonzero(sums == np.repeat(best, np.diff(np.r_[begins, len(owners)])))
    candidates = candidates[np.r_[True, np.diff(owners[candidates]) != 0]]  # of equals the lower class
    labels[owners[candidates]] = kinds[candidates]
    return labels
