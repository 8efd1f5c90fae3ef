"""Build a store: batches of images and annotations in any order, one file out.

The batches go to disk as they come. Held whole are only ids, owners and orders: some 8-byte numbers for
each image and annotation. The file is grouped by image, in ascending order of the image ids.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import HEADER, VERSION, atomic_write
from nds_plugin.store import grouping
from nds_plugin.store.boxes import ROUNDING_PIXELS, clean_boxes
from nds_plugin.store.schema import (
    BATCH_IMAGES,
    BATCH_VALUES,
    BOX,
    FORMAT,
    KIND,
    NUMBER_COLUMNS,
    RAGGED_COLUMNS,
    RLE_SIZE,
    TEXT_COLUMNS,
    Annotations,
    Images,
    check_columns,
    check_names,
)
from nds_plugin.store.spool import (
    FixedSpool,
    RaggedSpool,
    TextSpool,
    close_all,
    id_at,
    ragged_spool,
    take_ids,
    to_arrow,
)

logger = logging.getLogger(__name__)

_ROUNDING_SHARE = 1e-4  # of a side, where boxes come as shares of the sides


class StoreWriter:
    """Collects a dataset and writes its store.

    Args:
        scratch: an empty folder for what does not fit into memory; the caller removes it.
        where: what the data are called in messages, for example the annotation file.
        normalised: boxes and polygons come as shares of the image's width and height, and images
            may have no size (OpenImages).
    """

    def __init__(self, scratch: Path, where: str, normalised: bool = False) -> None:
        self.where, self.normalised = where, normalised
        self.info: dict[str, Any] = {}
        self._folder = scratch
        self._image_ids: FixedSpool | TextSpool | None = None
        self._owners: FixedSpool | TextSpool | None = None
        self._texts = {"file_name": TextSpool(scratch / "file_name")}
        self._sizes = FixedSpool(scratch / "sizes", np.int32, 2)
        self._labels = FixedSpool(scratch / "label", np.int32)
        self._box = FixedSpool(scratch / "bbox", np.float64, 4)
        self._numbers = {
            "category": FixedSpool(scratch / "category", np.int64),
            "iscrowd": FixedSpool(scratch / "iscrowd", np.int8),
        }
        self._usable = FixedSpool(scratch / "usable", np.bool_)
        self._ragged: dict[str, RaggedSpool] = {}
        self._rle_size = FixedSpool(scratch / "rle_size", np.int32, 2)
        self._keep_rle_size = False
        self._new_numbers: dict[int, int] = {}

    @property
    def num_images(self) -> int:
        """Images added so far."""
        return self._sizes.rows

    @property
    def num_annotations(self) -> int:
        """Annotations added so far."""
        return self._box.rows

    def add_images(self, batch: Images) -> None:
        """Add images."""
        count = check_columns(batch)
        before = self.num_images
        self._image_ids = self._add_ids(self._image_ids, "image_id", batch.image_id, "images")
        self._sizes.append(np.stack([batch.width, batch.height], axis=1))
        if batch.label is not None:
            self._labels.append(batch.label)
        for name in TEXT_COLUMNS:
            column = getattr(batch, name)
            if column is not None:
                spool = self._texts.setdefault(name, TextSpool(self._folder / name))
                spool.pad(before)
                spool.append_text(column)
            elif name in self._texts:
                self._texts[name].pad(before + count)

    def add_annotations(self, batch: Annotations) -> None:
        """Add annotations, of images that were or will be added."""
        count = check_columns(batch)
        before = self.num_annotations
        self._owners = self._add_ids(self._owners, "owner", batch.image_id, "annotations")
        self._box.append(batch.bbox)
        self._numbers["category"].append(batch.category_id)
        self._numbers["iscrowd"].append(batch.iscrowd)
        self._usable.append(np.ones(count, dtype=bool) if batch.usable is None else batch.usable)
        for name in ("area", "flags", "annotation_id"):
            self._add_optional(name, getattr(batch, name), before, before + count)
        for name in RAGGED_COLUMNS:
            column = getattr(batch, name)
            if column is not None:
                if name not in self._ragged:
                    self._ragged[name] = ragged_spool(self._folder / name, RAGGED_COLUMNS[name])
                self._ragged[name].pad(before)
                self._ragged[name].append(column)
            elif name in self._ragged:
                self._ragged[name].pad(before + count)
        if batch.rle_size is not None:
            self._rle_size.pad(before, 0)
            self._rle_size.append(batch.rle_size)
        elif self._rle_size.rows:
            self._rle_size.pad(before + count, 0)

    def set_text(self, name: str, column: pa.Array) -> None:
        """Set a text of all images at once, in the order in which they were added."""
        self._texts[name] = TextSpool(self._folder / f"{name}_whole")
        self._texts[name].append_text(column)

    def renumber(self, numbers: dict[int, int]) -> None:
        """Other category ids for those that annotations were added with."""
        self._new_numbers = dict(numbers)

    def _add_optional(self, name: str, column: Any, before: int, after: int) -> None:
        dtype, fill = NUMBER_COLUMNS[name]
        if column is not None:
            spool = self._numbers.setdefault(name, FixedSpool(self._folder / name, dtype))
            spool.pad(before, fill)
            spool.append(column)
        elif name in self._numbers:
            self._numbers[name].pad(after, fill)

    def _add_ids(self, spool: Any, name: str, ids: Any, what: str) -> Any:
        is_text = isinstance(ids, pa.Array)
        if spool is None:
            spool = TextSpool(self._folder / name) if is_text else FixedSpool(self._folder / name, np.int64)
        elif isinstance(spool, TextSpool) != is_text:
            raise NDSError(
                f"{self.where}: the image ids of {what!r} must be all whole numbers or all text, got both."
            )
        if is_text:
            spool.append_text(ids)
        else:
            spool.append(ids)
        return spool

    def write(
        self, path: Path, categories: Sequence[tuple[int, str]], key: str, header: dict[str, Any]
    ) -> None:
        """Write the store.

        Args:
            path: of the store; whole or untouched.
            categories: (id, name) of the classes; classes count from 0 in ascending order of the ids.
            key: of the artefact.
            header: JSON-able; goes into the file's header beside what the writer knows.

        Raises:
            NDSError: no image, an id twice, an annotation of an unknown image or category, the name of
                a class that cannot be encoded, or the disk is full.
        """
        if self._image_ids is None or self.num_images == 0:
            raise NDSError(f"{self.where} lists no images.")
        check_names((name for _, name in categories), self.where)
        categories = sorted(categories)
        ids = self._ids(self._image_ids)
        order = grouping.ascending(ids, self.where)
        owners = grouping.owners(ids, order, self._ids(self._owners), self.where)
        classes = grouping.classes_of(self._category_ids(), categories, self.where)
        self._keep_rle_size = self._check_masks(order, owners, ids)
        boxes, kept = self._boxes(order, owners, ids)
        rows, starts = grouping.by_image(owners, kept, len(order))
        edges = grouping.batch_edges(starts, self._values_before(rows), BATCH_IMAGES, BATCH_VALUES)
        counts = np.zeros(len(categories), dtype=np.int64)
        np.add.at(counts, classes[rows], 1)
        full = {
            "kind": KIND,
            "version": VERSION,
            "format": FORMAT,
            "key": key,
            "images": len(order),
            "annotations": len(rows),
            "annotations_read": self.num_annotations,
            "categories": [{"id": int(i), "name": name} for i, name in categories],
            "category_counts": counts.tolist(),
            "normalised": self.normalised,
            "batch_starts": edges[:-1],
            "info": self.info,
            **header,
        }
        metadata = {HEADER: json.dumps(full, allow_nan=False).encode()}
        with atomic_write(path) as file:
            self._write_batches(file, metadata, edges, (ids, order), (rows, starts, boxes, classes))

    def _category_ids(self) -> npt.NDArray[np.int64]:
        given = self._numbers["category"].values()
        if not self._new_numbers:
            return given
        table = np.arange(max(self._new_numbers) + 1, dtype=np.int64)
        table[list(self._new_numbers)] = list(self._new_numbers.values())
        return table[given]

    def _check_masks(self, order: Any, owners: Any, ids: Any) -> bool:
        """See that masks are of their image's size; whether some image with masks has no size."""
        given = self._rle_size.values()
        if len(given) == 0:
            return False
        expected = self._sizes.values()[order[owners], ::-1]
        wrong = ((given > 0) & (expected > 0) & (given != expected)).any(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            (height, width), (h, w) = expected[row].tolist(), given[row].tolist()
            raise NDSError(
                f"{self.where}: {int(wrong.sum())} masks are not of their image's size, first annotations[{row}] of "
                f"image {id_at(ids, order[owners[row]])!r}: expected {width} x {height}, got {w} x {h}."
            )
        return bool(((given > 0) & (expected == 0)).any())

    def _boxes(self, order: Any, owners: Any, ids: Any) -> tuple[Any, Any]:
        boxes = self._box.values()
        names = self._numbers["annotation_id"].values() if "annotation_id" in self._numbers else None
        if self.normalised:
            sizes, tolerance = np.ones((len(order), 2), dtype=np.float64), _ROUNDING_SHARE
        else:
            sizes, tolerance = self._sizes.values()[order].astype(np.float64), ROUNDING_PIXELS
        usable = self._usable.values()
        return clean_boxes(
            boxes, usable, owners, sizes, lambda i: id_at(ids, order[i]), names, self.where, tolerance
        )

    def _write_batches(
        self, file: Any, metadata: Any, edges: list[int], images: Any, annotations: Any
    ) -> None:
        ids, order = images
        rows, starts, boxes, classes = annotations
        writer = None
        try:
            ranges = list(itertools.pairwise(edges))
            for first, last in tqdm(
                ranges, desc=f"writing {Path(self.where).name}", unit="batch", disable=None
            ):
                chosen = rows[starts[first] : starts[last]]
                columns = {
                    "image_id": take_ids(ids, order[first:last]),
                    **self._image_part(order[first:last]),
                }
                offsets = pa.array((starts[first : last + 1] - starts[first]).astype(np.int32))
                columns["annotations"] = pa.ListArray.from_arrays(
                    offsets, self._annotation_part(chosen, boxes, classes)
                )
                batch = pa.RecordBatch.from_pydict(columns)
                if writer is None:
                    writer = pa.ipc.new_file(file, batch.schema.with_metadata(metadata))
                writer.write_batch(batch)
        finally:
            if writer is not None:
                writer.close()

    def _values_before(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Per ragged column, how many values lie before each of these rows, and in all; shape (rows + 1,)."""
        found = []
        for spool in self._ragged.values():
            edges = spool.leaf_edges()
            before = np.zeros(len(rows) + 1, dtype=np.int64)
            np.cumsum(edges[rows + 1] - edges[rows], out=before[1:])
            found.append(before)
        return found

    def _image_part(self, rows: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
        sizes = self._sizes.take(rows)
        columns = {name: spool.take_text(rows) for name, spool in self._texts.items()}
        columns["width"], columns["height"] = (pa.array(np.ascontiguousarray(sizes[:, i])) for i in (0, 1))
        if self._labels.rows:
            columns["label"] = pa.array(self._labels.take(rows))
        return columns

    def _annotation_part(self, rows: Any, boxes: Any, classes: Any) -> pa.StructArray:
        columns = {
            "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes(rows).ravel()), type=BOX),
            "category": pa.array(classes[rows].astype(np.int32)),
        }
        for name, spool in self._numbers.items():
            if name != "category":
                columns[name] = pa.array(spool.take(rows))
        if self._keep_rle_size:
            sizes = pa.array(self._rle_size.take(rows).ravel())
            columns["rle_size"] = pa.FixedSizeListArray.from_arrays(sizes, type=RLE_SIZE)
        for name, ragged in self._ragged.items():
            columns[name] = to_arrow(ragged.take(rows), RAGGED_COLUMNS[name])
        return pa.StructArray.from_arrays(list(columns.values()), list(columns))

    def _ids(self, spool: Any) -> Any:
        if spool is None:
            return np.zeros(0, dtype=np.int64)
        if isinstance(spool, TextSpool):
            return spool.take_text(np.arange(spool.rows, dtype=np.int64))
        return spool.values()

    def _spools(self) -> Iterator[FixedSpool | RaggedSpool]:
        yield from (self._sizes, self._labels, self._box, self._usable, self._rle_size)
        yield from (spool for spool in (self._image_ids, self._owners) if spool is not None)
        yield from self._texts.values()
        yield from self._numbers.values()
        yield from self._ragged.values()

    def close(self) -> None:
        """Let go of the scratch files."""
        close_all(list(self._spools()))
