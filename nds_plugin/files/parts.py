"""A Parquet artefact in parts: a folder of ``part-00000.parquet``, ``part-00001.parquet``, ..., of this machine or at a URL.

For tables that outgrow one machine's memory. Every part is written whole or not at all, carries the header of an
artefact (:mod:`nds_plugin.files.artifacts`), and is read by columns and row groups. Parts may be written in any
order, by several processes; ``_head.json``, written last, says how many there are, how long each is, and what is
true of the whole. An artefact of one file is read in the same way, as a single part.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.errors import DamagedFileError, NDSError
from nds_plugin.files.artifacts import VERSION, read_table, table_metadata
from nds_plugin.files.locations import StrPath, is_url, join, listing, local_path
from nds_plugin.files.part_files import (
    HEAD,
    find,
    is_in_parts,
    opened_parquet,
    part_name,
    without_head,
    written_whole,
)

# Our choice: a draw of 23,000 of 10^9 images skips half of the row groups, and a group is a read of some 100 KB.
ROW_GROUP = 1 << 15
BATCH = 1 << 20  # rows of a batch
MOST_IN_MEMORY = 100_000_000  # rows; our choice: an index takes 100 to 200 bytes a row


def write_part(
    folder: StrPath, number: int, kind: str, key: str, table: pa.Table, payload: Mapping[str, Any]
) -> None:
    """Write one part, whole or not at all; the same ``kind``, ``key`` and ``payload`` for all parts.

    Raises:
        NDSError: it cannot be written.
    """
    table = table.replace_schema_metadata(table_metadata(kind, key, {"part": number, **payload}))
    with written_whole(join(folder, part_name(number))) as file:
        # With checksums: a copy of terabytes does not come without a flipped bit, which zstd need not notice.
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)


def write_head(folder: StrPath, kind: str, key: str, payload: Mapping[str, Any]) -> None:
    """Say that all parts are there, and what is true of the whole.

    Raises:
        NDSError: a part is missing, damaged or of another artefact; it cannot be written.
    """
    sizes = listing(folder)
    sizes.pop(HEAD, None)
    found = without_head(folder, kind, sizes)
    if found.header["key"] != key:
        raise DamagedFileError(
            f"the parts in {folder} are of another {kind} (key {found.header['key'][:12]}, not {key[:12]}): write it anew."
        )
    parts = [{"rows": rows, "bytes": sizes[part_name(i)]} for i, rows in enumerate(found.rows)]
    document = {"kind": kind, "version": VERSION, "key": key, **payload, "parts": parts}
    with written_whole(join(folder, HEAD)) as file:
        file.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def read_whole(path: StrPath, kind: str, most: int = MOST_IN_MEMORY) -> tuple[pa.Table, dict[str, Any]]:
    """All rows of a Parquet artefact, of one file or in parts, of this machine or at a URL, and its header.

    Raises:
        NDSError: as :meth:`Parts.open`; more rows than ``most``, which are to be streamed.
    """
    if not is_url(path) and not is_in_parts(path):
        return read_table(local_path(path), kind)
    parts = Parts.open(path, kind)
    if len(parts) > most:
        raise NDSError(
            f"{path}: {len(parts):,} images, of which at most {most:,} are read into memory: nds draw by clusters streams "
            "over them; for anything else take a part of the source."
        )
    return parts.read(), parts.header


@dataclass(frozen=True)
class Parts:
    """The parts of an artefact, in their order.

    Attributes:
        path: the folder, or the file of an artefact that has one alone.
        header: of the whole.
        files: the parts.
        rows: of each part.
    """

    path: str
    header: dict[str, Any]
    files: Sequence[str]
    rows: Sequence[int]

    @classmethod
    def open(cls, path: StrPath, kind: str) -> Parts:
        """Find the parts of an artefact; no rows are read.

        Raises:
            NDSError: missing, a part missing or half written, or another kind or version.
        """
        found = find(path, kind)
        return cls(str(path), found.header, found.files, found.rows)

    def __len__(self) -> int:
        return int(sum(self.rows))

    def read(self) -> pa.Table:
        """All rows."""
        names = None
        tables = []
        for number, file in enumerate(self.files):
            with self._opened(number) as opened:
                names = names or opened.schema_arrow.names
                self._check_columns(file, opened, names)
                tables.append(opened.read(columns=names))
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def batches(self, columns: Sequence[str], size: int = BATCH) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Some columns of all rows, in batches, each with the number of its first row.

        Raises:
            NDSError: a part is damaged, or lacks a column.
        """
        row = 0
        for number, file in enumerate(self.files):
            with self._opened(number) as opened:
                self._check_columns(file, opened, columns)
                for batch in opened.iter_batches(size, columns=list(columns)):
                    yield row, batch
                    row += len(batch)

    def take(self, columns: Sequence[str], rows: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
        """Some columns of the rows at ascending ``rows``; only row groups that hold one are read."""
        first = 0
        for number, count in enumerate(self.rows):
            low, high = np.searchsorted(rows, [first, first + count])
            if low < high:
                yield from self._take(number, columns, rows[low:high] - first)
            first += count

    def _take(self, number: int, columns: Sequence[str], rows: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
        with self._opened(number) as opened:
            self._check_columns(self.files[number], opened, columns)
            footer = opened.metadata
            edges = np.cumsum([0, *(footer.row_group(i).num_rows for i in range(footer.num_row_groups))])
            cuts = np.searchsorted(rows, edges)
            for group in np.flatnonzero(np.diff(cuts)).tolist():
                wanted = rows[cuts[group] : cuts[group + 1]] - edges[group]
                table = opened.read_row_group(group, columns=list(columns)).take(pa.array(wanted))
                yield table.replace_schema_metadata(None)

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[pq.ParquetFile]:
        with opened_parquet(self.files[number]) as opened:
            if opened.metadata.num_rows != self.rows[number]:
                raise DamagedFileError(
                    f"{self.files[number]} has {opened.metadata.num_rows} rows, expected {self.rows[number]}: make it again."
                )
            yield opened

    @staticmethod
    def _check_columns(file: str, opened: pq.ParquetFile, columns: Sequence[str]) -> None:
        if missing := [name for name in columns if name not in opened.schema_arrow.names]:
            raise DamagedFileError(f"{file} lacks the columns {', '.join(missing)}: make it again.")


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``rows`` each; the last may be shorter."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(map(len, held)) >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            held = [whole.slice(rows)]
    if sum(map(len, held)):
        yield pa.concat_tables(held)
