"""Objects as the unit of selection: annotated boxes become crops, an image's weight that of its objects.

A crop is a row of a :class:`~nds_plugin.source.index.SourceIndex` like any image, so that features,
partition, experts and scores are made of objects by the code that makes them of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.images.reading import region_path
from nds_plugin.settings import Settings, setting
from nds_plugin.source.index import SourceIndex, take_rows

UNITS = ("image", "object")
POOLS = ("sum", "mean")
_SEPARATOR = "#"  # between the id of an image and the place of its object

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ObjectConfig(Settings):
    """Which objects stand for an image, and how; all of it our choice.

    The ``sum`` of its objects' probabilities is the chance that an object drawn at random lies in an
    image; their ``mean`` does not favour crowded images.
    """

    what: ClassVar[str] = "objects"

    per_image: int = setting(5, "most objects of one image, the largest ones", least=1)
    min_side: int = setting(
        16, "shortest side of a box in pixels; the largest object of an image always counts", least=1
    )
    context: float = setting(1.25, "side of the square crop, over the longer side of the box", least=1)
    pool: str = setting(
        "sum", "an image's weight is the sum or the mean of its objects' probabilities", choices=POOLS
    )


def crop_objects(
    index: SourceIndex,
    rows: Ints,
    boxes: Floats,
    labels: npt.NDArray[np.integer],
    config: ObjectConfig,
) -> SourceIndex:
    """The index of the crops around annotated boxes.

    An object's id is ``ID#x,y,width,height``, the crop in image ID, so that the index's hash tells
    where the boxes lie. Boxes with the same crop are one object. Neither the order of the
    annotations nor that of the images matters.

    Args:
        index: of the images.
        rows: row of each box's image, shape (M,).
        boxes: x, y, width, height in pixels of the upright image, shape (M, 4).
        labels: class of each box as a position in ``index.classes``, shape (M,).
        config: which objects to keep.

    Raises:
        NDSError: no box at all.
    """
    if len(rows) == 0:
        raise NDSError(
            f"none of the {len(index)} images of {', '.join(index.sources)} has an annotated box of a single object "
            "(no crowd): selection by objects needs boxes on both sides; use NDS.UNIT image."
        )
    area = boxes[:, 2] * boxes[:, 3]
    order = np.lexsort((labels, boxes[:, 1], boxes[:, 0], -area, rows))
    rows, boxes, labels = rows[order], boxes[order], labels[order]
    first = np.flatnonzero(np.r_[True, np.diff(rows) != 0])
    number = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    large = boxes[:, 2:].min(axis=1) >= config.min_side
    kept = (number == 0) | (large & (number < config.per_image))
    rows, boxes, labels = rows[kept], boxes[kept], labels[kept]
    sizes = np.stack([index.column("width")[rows], index.column("height")[rows]], axis=1)
    squares = _squares(boxes, sizes.astype(np.float64), config.context)
    once = np.sort(np.unique(np.column_stack([rows, squares]), axis=0, return_index=True)[1])
    rows, squares, labels = rows[once], squares[once], labels[once]
    table = take_rows(index.table, rows)
    names, ids = table.column("file_name").to_pylist(), table.column("image_id").to_pylist()
    columns = {
        "image_id": [
            f"{name}{_SEPARATOR}{','.join(map(str, square))}" for name, square in zip(ids, squares.tolist())
        ],
        "file_name": [region_path(name, *square) for name, square in zip(names, squares.tolist())],
        "width": squares[:, 2].astype(np.int32),
        "height": squares[:, 3].astype(np.int32),
        "label": labels.astype(np.int32),
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return SourceIndex(table, index.classes)


def _squares(boxes: Floats, sizes: Floats, context: float) -> Ints:
    """Squares around the boxes, moved and, where they are larger than the image, cut to lie inside it."""
    side = np.repeat((boxes[:, 2:].max(axis=1) * context)[:, None], 2, axis=1)
    limit = np.where(sizes > 0, sizes, np.inf)  # 0: the size is not known
    side = np.maximum(np.minimum(np.ceil(side), limit), 1.0)
    corner = np.floor(boxes[:, :2] + boxes[:, 2:] / 2 - side / 2)
    corner = np.clip(corner, 0.0, np.maximum(limit - side, 0.0))
    return np.concatenate([corner, side], axis=1).astype(np.int64)


def parents(objects: SourceIndex, index: SourceIndex) -> Ints:
    """Row of each object's image, shape (M,).

    Raises:
        NDSError: an object of an image that the index does not hold.
    """
    ids = [name.rpartition(_SEPARATOR)[0] for name in objects.column("image_id").tolist()]
    rows = index.positions(objects.column("source").tolist(), ids)
    if (rows < 0).any():
        first = objects[int(np.flatnonzero(rows < 0)[0])]
        raise NDSError(
            f"{int((rows < 0).sum())} objects are of images that the index does not hold, first object "
            f"{first.image_id!r} of {first.source!r}: make the objects again from this index."
        )
    return rows


def pool_objects(p: Floats, parent: Ints, num_images: int, pool: str) -> Floats:
    """Weights of images from those of their objects, shape (num_images,); 0 for one without objects."""
    total = np.bincount(parent, weights=p, minlength=num_images)
    if pool == "sum":
        return np.asarray(total)
    if pool == "mean":
        return np.asarray(total / np.maximum(1, np.bincount(parent, minlength=num_images)))
    raise unknown_name("pooling of objects", pool, POOLS)
