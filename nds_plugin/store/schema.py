"""What a store holds: batches on their way in, and the Arrow columns that they become."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError

KIND = "annotation-store"
FORMAT = 2
BATCH_IMAGES = 8192  # images of a record batch at most
BATCH_VALUES = (
    1 << 24
)  # numbers of its polygons, or bytes of its run lengths, at most (of more than one image)

# Bits of an annotation's ``flags``.
DIFFICULT = 1  # VOC
TRUNCATED = 2  # VOC, OpenImages
OCCLUDED = 4  # OpenImages
GROUP_OF = 8  # OpenImages; such an annotation is a crowd, too
DEPICTION = 16  # OpenImages
INSIDE = 32  # OpenImages
TEXT_RLE = 64  # the run lengths came as text (COCO json) and are given back as text
NO_CROWD_KEY = -1  # ``iscrowd`` of an annotation that does not say

MAX_SIDE = 1_000_000  # pixels of an image that a reader believes; our choice, beyond any photograph

ImageIds: TypeAlias = npt.NDArray[np.int64] | pa.Array


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length: ``values`` cut into pieces of ``lengths``; values may be ragged again.

    Attributes:
        lengths: shape (rows,), int64 or int32.
        values: shape (sum of lengths,), or as many ragged rows.
    """

    lengths: npt.NDArray[Any]
    values: npt.NDArray[Any] | Ragged

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of_bytes(cls, rows: Sequence[bytes | None]) -> Ragged:
        """Rows of bytes; None is an empty row."""
        lengths = np.fromiter((len(row or b"") for row in rows), np.int64, len(rows))
        return cls(lengths, np.frombuffer(b"".join(row for row in rows if row), np.uint8))

    @classmethod
    def of_numbers(cls, rows: Sequence[Sequence[float]]) -> Ragged:
        """Rows of numbers, as float64."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        flat = itertools.chain.from_iterable(rows)
        return cls(lengths, np.fromiter(flat, np.float64, int(lengths.sum())))

    @classmethod
    def of_polygons(cls, rows: Sequence[Sequence[Sequence[float]]]) -> Ragged:
        """Per row some polygons, each x, y, x, y, ... in pixels."""
        counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        return cls(counts, cls.of_numbers([polygon for row in rows for polygon in row]))


@dataclass(frozen=True)
class Images:
    """Some images of a dataset, as columns of equal length.

    Attributes:
        image_id: all whole numbers (int64 array) or all text (Arrow string array).
        file_name: text, relative to the dataset's image root; forward slashes.
        width, height: pixels; 0 where not known.
        url, license, checksum, author: as the provider publishes them; None where it does not.
        label: int32 position of the image's class, for datasets of whole images; None otherwise.
    """

    image_id: ImageIds
    file_name: pa.Array
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    url: pa.Array | None = None
    license: pa.Array | None = None
    checksum: pa.Array | None = None
    author: pa.Array | None = None
    label: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Annotations:
    """Some annotated objects, in any order, as columns of equal length.

    Attributes:
        image_id: the images' ids, of the type that the dataset's images have.
        category_id: int64, the provider's ids (``StoreWriter.write`` is told their names).
        bbox: float64 of shape (N, 4), x, y, width, height, in pixels (or in shares of the image's
            sides where the store is told so).
        iscrowd: int8; 0, 1 or ``NO_CROWD_KEY``.
        area: float64, as the provider says, NaN where it does not; None: for none.
        flags: uint8, bits above; None: none set.
        annotation_id: int64; None where there are none.
        polygons: ragged twice, pixels; an empty row where an object has none.
        rle: compressed run lengths over the image's own size; an empty row where there are none.
        rle_size: int32 of shape (N, 2), height and width that the run lengths are of, 0 where there
            are none; checked against the image's, and kept where some image has no size.
        keypoints: x, y, visibility, ..., as in COCO json; an empty row where there are none.
        usable: bool; those that are not are left out of the store, and only counted; None: all are.
    """

    image_id: ImageIds
    category_id: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.int8]
    area: npt.NDArray[np.float64] | None = None
    flags: npt.NDArray[np.uint8] | None = None
    annotation_id: npt.NDArray[np.int64] | None = None
    polygons: Ragged | None = None
    rle: Ragged | None = None
    rle_size: npt.NDArray[np.int32] | None = None
    keypoints: Ragged | None = None
    usable: npt.NDArray[np.bool_] | None = None


TEXT_COLUMNS = ("file_name", "url", "license", "checksum", "author")
# name -> (numpy type, what an absent column is filled with)
NUMBER_COLUMNS: dict[str, tuple[Any, Any]] = {
    "category": (np.int32, 0),
    "iscrowd": (np.int8, 0),
    "area": (np.float64, np.nan),
    "flags": (np.uint8, 0),
    "annotation_id": (np.int64, -1),
}
RAGGED_COLUMNS: dict[str, pa.DataType] = {
    "polygons": pa.list_(pa.list_(pa.float64())),
    "rle": pa.binary(),
    "keypoints": pa.list_(pa.float64()),
}
BOX = pa.list_(pa.float64(), 4)
RLE_SIZE = pa.list_(pa.int32(), 2)


def check_columns(batch: Images | Annotations) -> int:
    """Number of rows of a batch; a programming error if its columns differ in length."""
    present = {f.name: getattr(batch, f.name) for f in fields(batch) if getattr(batch, f.name) is not None}
    lengths = {name: len(column) for name, column in present.items()}
    assert len(set(lengths.values())) == 1, lengths
    return lengths["image_id"]


def check_names(names: Iterable[str], where: str) -> None:
    """See that names of classes can be written.

    Raises:
        NDSError: one holds half a character (a lone surrogate).
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise NDSError(
                f"{where}: the class name {name!r} holds half a character (a lone surrogate), which cannot be "
                "written: correct the name."
            ) from None


def text(values: Iterable[Any]) -> pa.Array:
    """An Arrow text column; None becomes ""."""
    return pa.array(["" if value is None else str(value) for value in values], pa.string())


def text_parts(column: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """A text or binary column without nulls, uncopied: where each row starts in the bytes, and the bytes.

    The starts are of shape (rows + 1,): the last one is where the last row ends.
    """
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return starts, memoryview(data if data is not None else b"")
