"""An index in parts, for sources whose index does not fit into memory: written part by part, read by columns."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.locations import StrPath, is_file, join
from nds_plugin.files.part_files import part_name
from nds_plugin.files.parts import Parts, regrouped, write_head, write_part
from nds_plugin.source.census import SourceCodes
from nds_plugin.source.index import KIND, SCHEMA, SourceIndex, index_hash

PART_ROWS = 10_000_000  # images of a part; our choice: a part is written from less than 2 GB of memory

logger = logging.getLogger(__name__)


def write_index(
    folder: StrPath,
    tables: Iterable[pa.Table],
    key: str,
    classes: Sequence[str] = (),
    rows: int = PART_ROWS,
) -> IndexParts:
    """Write an index in parts from tables of any length, a part in memory at a time.

    Args:
        folder: of the parts, or its URL; a new one.
        tables: columns of :class:`~nds_plugin.source.index.ImageRecord`.
        key: hash of what the index is made from.
        classes: names of the classes that ``label`` points into.
        rows: images of a part.

    Raises:
        NDSError: the folder holds parts already; no image, a column missing, or an identity that occurs twice in a
            part; it cannot be written.
    """
    if is_file(join(folder, part_name(0))):
        raise NDSError(
            f"{folder}: holds parts of an index already, perhaps of a start that was stopped: remove the folder, or name a "
            "new one."
        )
    number = 0
    for number, table in enumerate(regrouped(map(_checked, tables), rows)):
        write_index_part(folder, number, SourceIndex(table, classes), key)
    return seal_index(folder, key)


def write_index_part(folder: StrPath, number: int, part: SourceIndex, key: str) -> None:
    """Write one part of an index; several processes may write some each, and one then seals the index.

    Raises:
        NDSError: it cannot be written.
    """
    write_part(folder, number, KIND, key, part.table, {"classes": list(part.classes)})


def seal_index(folder: StrPath, key: str) -> IndexParts:
    """Close an index whose parts are all there: its hash and its sources go into the head.

    Raises:
        NDSError: a part is missing, damaged or of another index; it cannot be written.
    """
    found = IndexParts(Parts.open(folder, KIND))
    payload = {"classes": list(found.classes), "hash": found.hash, "sources": found.sources}
    write_head(folder, KIND, key, payload)
    return IndexParts.open(folder)


class IndexParts:
    """An index that is never read as a whole.

    Args:
        parts: of the index.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.classes = tuple(parts.header.get("classes", ()))

    @classmethod
    def open(cls, path: StrPath) -> IndexParts:
        """Find the parts of an index; no rows are read.

        Raises:
            NDSError: missing, a part missing or half written, or no image.
        """
        parts = Parts.open(path, KIND)
        if len(parts) == 0:
            raise NDSError(f"{path}: index is empty: the source has no images.")
        return cls(parts)

    def __len__(self) -> int:
        return len(self.parts)

    @functools.cached_property
    def hash(self) -> str:
        """That of :attr:`SourceIndex.hash`, from the head; where there is none, from the columns."""
        if "hash" in self.parts.header:
            return str(self.parts.header["hash"])
        logger.info("index: hashing %d images of %s", len(self), self.parts.path)
        return index_hash(self.classes, self._column)

    @functools.cached_property
    def sources(self) -> list[str]:
        """Names of the sources, in order of first appearance."""
        if "sources" in self.parts.header:
            return [str(name) for name in self.parts.header["sources"]]
        codes = SourceCodes()
        for piece in self._column("source"):
            codes.of(piece)
        return codes.names

    def _column(self, name: str) -> Iterator[pa.Array]:
        return (batch.column(0) for _, batch in self.parts.batches([name]))


def _checked(table: pa.Table) -> pa.Table:
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise NDSError(f"index lacks the columns {', '.join(missing)}.")
    return table.select(SCHEMA.names).cast(SCHEMA)
