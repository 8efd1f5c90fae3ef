"""The source index: one record per image, and the identity of an image.

The identity of an image is ``(source, image_id)`` and never its position: filtering empty
images shifts positions, and image ids repeat across sources. ``image_id`` is kept as text,
since COCO numbers its images and OpenImages names them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, write_table
from nds_plugin.files.parts import read_whole

KIND = "index"
NO_LABEL = -1
SCHEMA = pa.schema(
    [
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("image_id", pa.string()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.int32()),
        ("url", pa.string()),
        ("license", pa.string()),
        ("checksum", pa.string()),
    ]
)

Rows = TypeVar("Rows", pa.Table, pa.ChunkedArray)


@dataclass(frozen=True)
class ImageRecord:
    """One image of a source.

    Attributes:
        source: name of the source dataset.
        image_id: the source's own id of the image, as text.
        file_name: path of the image file.
        width, height: in pixels, as the annotation says; 0 where unknown.
        label: position of the image's main class in ``SourceIndex.classes`` (the class with
            the largest annotated area), or ``NO_LABEL``.
        url, license, checksum: as the provider publishes them, else empty.
    """

    source: str
    image_id: str
    file_name: str
    width: int = 0
    height: int = 0
    label: int = NO_LABEL
    url: str = ""
    license: str = ""
    checksum: str = ""


def refuse_repeated(table: pa.Table, what: str) -> None:
    """See that no identity occurs twice among the rows of an index.

    Args:
        table: with the columns source and image_id.
        what: the rows, for messages.

    Raises:
        NDSError: one does.
    """
    groups = table.select(["source", "image_id"]).group_by(["source", "image_id"])
    counts = groups.aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts.column("count_all"), 1))
    if twice.num_rows:
        first = twice.slice(0, 1).to_pylist()[0]
        raise NDSError(
            f"{twice.num_rows} {what} occur more than once in the index, first image id "
            f"{first['image_id']!r} of source {first['source']!r}: ids must be unique in a source."
        )


def take_rows(table: pa.Table, rows: npt.NDArray[np.integer[Any]]) -> pa.Table:
    """Rows of a table, ascending; one may occur several times.

    Arrow's own ``take`` joins a column's chunks first, which texts of more than 2 GB do not survive.
    """
    found, start = [], 0
    for batch in table.to_batches():
        low, high = np.searchsorted(rows, (start, start + len(batch)))
        if low < high:
            found.append(batch.take(pa.array(rows[low:high] - start)))
        start += len(batch)
    return pa.Table.from_batches(found, table.schema)


def same_identities(ours: pa.Table, theirs: pa.Table) -> bool:
    """Whether two tables are of the same images in the same order, however their text is encoded."""
    names = pa.schema([("source", pa.string()), ("image_id", pa.string())])
    one, other = (table.select(names.names).cast(names) for table in (ours, theirs))
    return bool(one.equals(other))


def copied_slice(rows: Rows, start: int, size: int) -> Rows:
    """Some rows that follow each other, copied: a view pickles with all of what it is of."""
    part = rows.slice(start, size)
    return part.take(pa.array(np.arange(len(part))))


class SourceIndex:
    """The images of one or several sources, as columns.

    Args:
        table: columns of ``ImageRecord``, one row per image.
        classes: names of the classes that ``label`` points into.

    Raises:
        NDSError: no image, a column missing, or an identity that occurs twice.
    """

    def __init__(self, table: pa.Table, classes: Sequence[str] = ()) -> None:
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise NDSError(f"index lacks the columns {', '.join(missing)}.")
        if table.num_rows == 0:
            raise NDSError("index is empty: the source has no images.")
        self.table = table.select(SCHEMA.names).cast(SCHEMA).unify_dictionaries().combine_chunks()
        self.classes = tuple(classes)
        self._refuse_duplicates()

    @classmethod
    def from_records(cls, records: Iterable[ImageRecord], classes: Sequence[str] = ()) -> SourceIndex:
        """Build from records, in their order."""
        rows = list(records)
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        arrays = [pa.array(columns[field.name], type=field.type) for field in SCHEMA]
        return cls(pa.Table.from_arrays(arrays, schema=SCHEMA), classes)

    @classmethod
    def join(cls, indexes: Sequence[SourceIndex]) -> SourceIndex:
        """Concatenate; classes are united by name, in order of first appearance.

        Raises:
            NDSError: two of them have a source of the same name, whose images would mix.
        """
        names = [name for index in indexes for name in index.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise NDSError(
                f"two of the joined indexes have a source {twice!r}: name their sources differently."
            )
        classes = list(dict.fromkeys(name for index in indexes for name in index.classes))
        position = {name: i for i, name in enumerate(classes)}
        tables = []
        for index in indexes:
            lookup = np.array([position[name] for name in index.classes] + [NO_LABEL], dtype=np.int32)
            labels = pa.array(lookup[index.column("label")])
            column = index.table.column_names.index("label")
            tables.append(index.table.set_column(column, "label", labels))
        return cls(pa.concat_tables(tables), classes)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, position: int) -> ImageRecord:
        return ImageRecord(**{k: v[0] for k, v in self.table.slice(position, 1).to_pydict().items()})

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column as a numpy array: int32 for numbers, objects (str) for text."""
        column = self.table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        return np.asarray(column.to_numpy(zero_copy_only=False))

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in order of first appearance."""
        return [str(name) for name in pc.unique(self.table.column("source").cast(pa.string())).to_pylist()]

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the identities, sizes, labels and checksums; not of where the files lie."""
        return index_hash(self.classes, lambda name: self.table.column(name).chunks)

    def positions(self, sources: Sequence[str], image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row of each identity, -1 where the index does not hold it; shape (len(image_ids),)."""
        lookup = self._lookup
        return np.fromiter(
            (lookup.get(key, -1) for key in zip(sources, image_ids)),
            dtype=np.int64,
            count=len(image_ids),
        )

    @functools.cached_property
    def _lookup(self) -> dict[tuple[str, str], int]:
        keys = zip(self.column("source").tolist(), self.column("image_id").tolist())
        return {key: i for i, key in enumerate(keys)}

    def _refuse_duplicates(self) -> None:
        ids = self.table.column("image_id")
        # Of one source whose ids ascend, as a large one often has them, none is twice: no table of them all.
        if len(self.sources) == 1 and pc.all(pc.less(ids[:-1], ids[1:]), skip_nulls=False).as_py():
            return
        refuse_repeated(self.table, "images")

    def annotated(self) -> SourceIndex:
        """The images that training sees: without those that have no annotated object.

        The rule of Detectron2's ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, so that no budget is spent on images
        that the loader leaves out. A source without any annotation, such as a folder, keeps its images.
        """
        source = self.column("source")
        bare = np.isin(source, self.bare_sources)
        kept = (self.column("label") != NO_LABEL) | bare
        return self if kept.all() else SourceIndex(self.table.filter(pa.array(kept)), self.classes)

    @property
    def bare_sources(self) -> list[str]:
        """Names of the sources of which no image has an annotated object."""
        known = set(np.unique(self.column("source")[self.column("label") != NO_LABEL]))
        return [name for name in self.sources if name not in known]

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the index artefact."""
        payload = {"classes": list(self.classes), "hash": self.hash}
        write_table(path, KIND, key, self.table, payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SourceIndex:
        """Read an index artefact, of one file or in parts, of this machine or at a URL."""
        table, header = read_whole(path, KIND)
        return cls(table, header["classes"])


def drawn_rows(count: int, most: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Rows of the images of a target that are looked at, ascending: a random draw of ``most``, or all of them."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.Generator(np.random.PCG64(seed)).choice(count, most, replace=False))


def index_hash(classes: Sequence[str], column: Callable[[str], Iterable[pa.Array]]) -> str:
    """The hash of an index: :attr:`SourceIndex.hash`.

    Args:
        classes: of the index.
        column: the pieces of a column, in order; it is asked twice for a column of text.
    """
    digest = hashlib.sha256(content_hash(list(classes)).encode())
    for name in ("source", "image_id", "width", "height", "label", "checksum"):
        if pa.types.is_integer(SCHEMA.field(name).type):
            for piece in column(name):
                digest.update(piece.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            continue
        for piece in column(name):
            digest.update(pc.binary_length(piece.cast(pa.large_string())).to_numpy().astype("<i8").tobytes())
        for piece in column(name):
            _update(digest, piece.cast(pa.large_string()))
    return digest.hexdigest()


def _update(digest: Any, text: pa.Array) -> None:
    """Feed a hash with the bytes of a column of text."""
    _, offsets, data = text.buffers()
    edges = np.frombuffer(offsets, "<i8")[text.offset : text.offset + len(text) + 1]
    if len(text) and data is not None:
        digest.update(memoryview(data)[edges[0] : edges[-1]])
