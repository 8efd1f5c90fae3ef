"""Feed a store with a split of OpenImages: all its boxes, or its masks with their boxes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.datasets.image_headers import Headers, read_headers
from nds_plugin.datasets.openimages.csv import (
    BoxRows,
    Classes,
    ImageRows,
    read_boxes,
    read_classes,
    read_image_ids,
    read_images,
)
from nds_plugin.datasets.openimages.files import Files
from nds_plugin.datasets.openimages.hierarchy import Expansion, read_hierarchy
from nds_plugin.datasets.seen_files import SeenFiles
from nds_plugin.errors import NDSError
from nds_plugin.store import Annotations, Images, Ragged, StoreWriter
from nds_plugin.store.schema import GROUP_OF

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is to be read, and where it goes.

    Attributes:
        files: of the split.
        name: of the dataset, for messages.
        expand: give boxes to all the classes that theirs is a kind of.
        unmasked: with masks: also the boxes that have none.
        missing: makes the error that shows the expected tree.
        seen: is told of some of the files that are too many to be inputs of the store.
        writer, parts: see :class:`StoreSpec`.
    """

    files: Files
    name: str
    expand: bool
    unmasked: bool
    missing: Callable[[Path], NDSError]
    seen: SeenFiles
    writer: StoreWriter
    parts: Path

    def expansion(self, classes: Classes) -> Expansion | None:
        """How boxes are given to further classes, None if they are not."""
        return Expansion(read_hierarchy(self.files.hierarchy), classes) if self.expand else None


def read_box_split(job: Job) -> list[tuple[int, str]]:
    """All images and boxes of a split; the categories."""
    classes = read_classes(job.files.classes)
    headers = headers_of(job, read_image_ids(job.files.images))
    turned: list[tuple[pa.Array, npt.NDArray[np.int8]]] = []
    for rows in read_images(job.files.images):
        start = job.writer.num_images
        part = Headers.unknown(len(rows)) if headers is None else headers.slice(start, start + len(rows))
        add_images(job, rows, part)
        if (part.orientation != 1).any():
            which = pa.array(part.orientation != 1)
            turned.append((rows.image_id.filter(which), part.orientation[part.orientation != 1]))
    expansion, turning = job.expansion(classes), _Turning(turned)
    for boxes in read_boxes(job.files.boxes, classes):
        boxes = turning(boxes)
        job.writer.add_annotations(box_columns(expansion(boxes) if expansion else boxes))
    return classes.categories()


class _Turning:
    """Turns the boxes of the images whose files say so.

    Args:
        turned: ids and orientations of those images, in pieces.
    """

    def __init__(self, turned: list[tuple[pa.Array, npt.NDArray[np.int8]]]) -> None:
        self._ids = pa.concat_arrays([ids for ids, _ in turned]) if turned else None
        self._orientation = np.concatenate([[], *(part for _, part in turned)]).astype(np.int8)

    def __call__(self, boxes: BoxRows) -> BoxRows:
        if self._ids is None:
            return boxes
        found = pc.fill_null(pc.index_in(boxes.image_id, value_set=self._ids), -1)
        places = found.to_numpy(zero_copy_only=False)
        orientation = np.where(places < 0, np.int8(1), self._orientation[places])
        corners = turn_corners(boxes.corners, orientation)
        return BoxRows(boxes.image_id, boxes.category, corners, boxes.flags)


def turn_corners(
    corners: npt.NDArray[np.float64], orientation: npt.NDArray[np.int8]
) -> npt.NDArray[np.float64]:
    """Boxes in the frame of the stored image, as they lie in the image as it is shown.

    Args:
        corners: XMin, XMax, YMin, YMax in shares of the sides, shape (N, 4).
        orientation: EXIF orientation of each one's image, 1 to 8, shape (N,).
    """
    x, y = corners[:, :2], corners[:, 2:]
    swapped = (orientation >= 5)[:, None]
    x, y = np.where(swapped, y, x), np.where(swapped, x, y)
    x = np.where(np.isin(orientation, (2, 3, 6, 7))[:, None], 1 - x[:, ::-1], x)
    y = np.where(np.isin(orientation, (3, 4, 7, 8))[:, None], 1 - y[:, ::-1], y)
    return np.concatenate([x, y], axis=1)


def headers_of(job: Job, ids: Iterator[pa.Array]) -> Headers | None:
    """The headers of images, None if the folder of the images is not there."""
    pattern = job.files.image_pattern()
    if pattern is None:
        logger.info("%s: its images are not there; their sizes are looked up when they are used.", job.name)
        return None
    names = (file_names(part, pattern) for part in ids)
    return read_headers(names, job.files.folder, job.parts, job.name, job.seen)


def file_names(ids: pa.Array, pattern: str) -> pa.Array:
    """Names of image files; see :meth:`Files.image_pattern`."""
    head, _, tail = pattern.partition("{id}")
    start, split, end = head.partition("{first}")
    first = pc.utf8_slice_codeunits(ids, 0, 1) if split else ""
    return pc.binary_join_element_wise(start, first, end, ids, tail, "")


def add_images(job: Job, rows: ImageRows, headers: Headers) -> None:
    """Add images to the store."""
    pattern = job.files.image_pattern() or job.files.usual_pattern
    job.writer.add_images(
        Images(
            image_id=rows.image_id,
            file_name=file_names(rows.image_id, pattern),
            width=headers.width,
            height=headers.height,
            url=rows.url,
            license=rows.license,
            checksum=rows.checksum,
            author=rows.author,
        )
    )


def box_columns(
    boxes: BoxRows, codes: pa.Array | None = None, sizes: npt.NDArray[np.int32] | None = None
) -> Annotations:
    """Boxes as columns of a store.

    Args:
        codes: run lengths of each one's mask, an Arrow binary array; sizes: height and width that
            they are of, shape (N, 2). None: no masks.
    """
    start, end = boxes.corners[:, [0, 2]], boxes.corners[:, [1, 3]]
    return Annotations(
        image_id=boxes.image_id,
        category_id=boxes.category + 1,
        bbox=np.concatenate([start, end - start], axis=1),
        iscrowd=((boxes.flags & GROUP_OF) != 0).astype(np.int8),
        flags=boxes.flags,
        rle=None if codes is None else _ragged(codes),
        rle_size=sizes,
    )


def _ragged(codes: pa.Array) -> Ragged:
    _, offsets, data = codes.buffers()
    edges = np.frombuffer(offsets, np.int32)[codes.offset : codes.offset + len(codes) + 1]
    flat = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return Ragged(np.diff(edges), flat[edges[0] : edges[-1]] if len(edges) else flat[:0])
