"""Open a store: memory-mapped columns, and one record at a time."""

from __future__ import annotations

import bisect
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import check_header, table_header
from nds_plugin.store.schema import FORMAT, KIND, TEXT_COLUMNS, text_parts

_FLAT_COLUMNS = ("category", "iscrowd", "area", "flags", "annotation_id")


@dataclass(frozen=True)
class Objects:
    """The annotations of one record batch as flat arrays (views of the file).

    Attributes:
        starts: where each image's annotations begin and end; shape (images + 1,).
        bbox: shape (N, 4). category, iscrowd, ...: shape (N,).
        polygons: (starts of each annotation's polygons, starts of each polygon's numbers, numbers).
        rle: (starts, bytes); keypoints: (starts, numbers). None where the store has none.
        rle_size: height and width of each mask, shape (N, 2), where they are not the images'.
    """

    starts: npt.NDArray[np.int32]
    bbox: npt.NDArray[np.float64]
    columns: dict[str, npt.NDArray[Any]]
    polygons: tuple[Any, Any, Any] | None
    rle: tuple[Any, memoryview] | None
    rle_size: npt.NDArray[np.int32] | None
    keypoints: tuple[Any, Any] | None


class AnnotationStore:
    """The images and annotations of one dataset, in ascending order of the image ids.

    Opening reads the header and the table of contents alone. May be pickled: it travels as its path
    and key.

    Args:
        path: of the store.
        key: of the store that is expected; None: any.

    Raises:
        NDSError: missing, cut short, another kind of file, of another version, or another key.
    """

    def __init__(self, path: str | os.PathLike[str], key: str | None = None) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        self.header = table_header(self._file.schema, self.path)
        check_header(self.header, KIND, self.path)
        if self.header.get("format") != FORMAT:
            raise NDSError(
                f"{self.path}: a store of format {self.header.get('format')}, this release reads {FORMAT}: "
                "delete it, it is made again when its dataset is used."
            )
        starts = self.header.get("batch_starts")
        if not isinstance(starts, list) or len(starts) != self._file.num_record_batches:
            raise NDSError(f"the header of {self.path} is damaged: delete the file, it is made again.")
        if key not in (None, self.header["key"]):
            raise NDSError(
                f"{self.path} was built again while it was in use, from other annotations: start again."
            )
        self.batch_starts: list[int] = starts
        self._batches: list[pa.RecordBatch | None] = [None] * self._file.num_record_batches
        self._objects: list[Objects | None] = [None] * self._file.num_record_batches

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self.path), self.header["key"])

    def __len__(self) -> int:
        return int(self.header["images"])

    @property
    def num_annotations(self) -> int:
        """Number of annotated objects, crowds included."""
        return int(self.header["annotations"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of ``category``."""
        return [category["name"] for category in self.header["categories"]]

    @property
    def category_ids(self) -> list[int]:
        """The provider's id of each class."""
        return [category["id"] for category in self.header["categories"]]

    @property
    def normalised(self) -> bool:
        """Whether boxes and polygons are shares of the image's sides."""
        return bool(self.header["normalised"])

    @property
    def has_labels(self) -> bool:
        """Whether images have a class of their own (datasets of whole images)."""
        return "label" in self._file.schema.names

    @property
    def num_batches(self) -> int:
        """Number of record batches."""
        return len(self._batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """One record batch; its columns are views of the file."""
        found = self._batches[number]
        if found is None:
            try:
                found = self._file.get_batch(number)
            except (pa.ArrowInvalid, OSError) as error:
                raise NDSError(
                    f"{self.path} is damaged ({error}): delete it, it is made again when its dataset is used."
                ) from None
            self._batches[number] = found
        return found

    def objects(self, number: int) -> Objects:
        """The annotations of one record batch."""
        found = self._objects[number]
        if found is None:
            found = self._objects[number] = _objects(self.batch(number))
        return found

    def column(self, name: str) -> npt.NDArray[Any]:
        """A number of every image: ``width``, ``height``, ``label``, or ``image_id`` where ids are numbers."""
        return np.concatenate([self.batch(i).column(name).to_numpy() for i in range(self.num_batches)])

    def text_column(self, name: str) -> pa.ChunkedArray:
        """A text of every image; empty text where the dataset has no such column.

        Args:
            name: ``file_name``, ``url``, ``license``, ``checksum``, ``author`` or ``image_id``.
        """
        chunks = []
        for i in range(self.num_batches):
            batch = self.batch(i)
            if name in batch.schema.names:
                column = batch.column(name)
                chunks.append(column if pa.types.is_string(column.type) else column.cast(pa.string()))
            elif name in TEXT_COLUMNS:
                chunks.append(pa.array([""], pa.string()).take(pa.array(np.zeros(len(batch), np.int64))))
            else:
                raise KeyError(name)
        return pa.chunked_array(chunks, pa.string())

    @functools.cached_property
    def object_counts(self) -> npt.NDArray[np.int64]:
        """Number of annotations of each image, crowds included; shape (images,)."""
        return np.concatenate(
            [np.diff(self.objects(i).starts).astype(np.int64) for i in range(self.num_batches)]
        )

    def locate(self, position: int) -> tuple[int, int]:
        """Record batch and row in it of an image."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = bisect.bisect_right(self.batch_starts, position) - 1
        return number, position - self.batch_starts[number]

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Annotations of each class, crowds included; shape (classes,)."""
        return np.array(self.header["category_counts"], dtype=np.int64)


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except FileNotFoundError:
        raise NDSError(f"annotation store not found: {path}.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise NDSError(f"{path} is not a whole annotation store ({error}): build it again.") from None


def _objects(batch: pa.RecordBatch) -> Objects:
    annotations = batch.column("annotations")
    struct = annotations.values
    names = {struct.type.field(i).name: i for i in range(struct.type.num_fields)}

    def child(name: str) -> Any:
        return struct.field(names[name]) if name in names else None

    bbox = child("bbox").flatten().to_numpy().reshape(-1, 4)
    columns = {name: child(name).to_numpy() for name in _FLAT_COLUMNS if name in names}
    polygons, rle, keypoints = child("polygons"), child("rle"), child("keypoints")
    return Objects(
        starts=annotations.offsets.to_numpy(),
        bbox=bbox,
        columns=columns,
        polygons=None
        if polygons is None
        else (
            polygons.offsets.to_numpy(),
            polygons.values.offsets.to_numpy(),
            polygons.values.values.to_numpy(),
        ),
        rle=None if rle is None else text_parts(rle),
        rle_size=None if "rle_size" not in names else child("rle_size").flatten().to_numpy().reshape(-1, 2),
        keypoints=None if keypoints is None else (keypoints.offsets.to_numpy(), keypoints.values.to_numpy()),
    )
