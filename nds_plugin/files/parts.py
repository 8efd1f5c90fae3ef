"""A Parquet artefact in parts: a folder of ``part-00000.parquet``, ``part-00001.parquet``, ..., of this machine or at a URL.

For tables that outgrow one machine's memory. Every part is written whole or not at all, carries the header of an
artefact (:mod:`nds_plugin.files.artifacts`), and is read by columns and row groups. Parts may be written in any
order, by several processes; ``_head.json``, written last, says how many there are, how long each is, and what is
true of the whole. An artefact of one file is read in the same way, as a single part.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.errors import DamagedFileError, MissingFileError, NDSError
from nds_plugin.files.artifacts import (
    VERSION,
    atomic_write,
    check_header,
    not_there,
    read_table,
    table_header,
    table_metadata,
)
from nds_plugin.files.locations import (
    StrPath,
    is_file,
    is_url,
    join,
    listing,
    local_path,
    open_binary,
    read_bytes,
    upload,
)

HEAD = "_head.json"
# Our choice: a draw of 23,000 of 10^9 images skips half of the row groups, and a group is a read of some 100 KB.
ROW_GROUP = 1 << 15
BATCH = 1 << 20  # rows of a batch
MOST_IN_MEMORY = 100_000_000  # rows; our choice: an index takes 100 to 200 bytes a row
_PART = re.compile(r"part-(\d{5,})\.parquet")


def part_name(number: int) -> str:
    """File name of a part, from 0."""
    return f"part-{number:05d}.parquet"


def write_part(
    folder: StrPath, number: int, kind: str, key: str, table: pa.Table, payload: Mapping[str, Any]
) -> None:
    """Write one part, whole or not at all; the same ``kind``, ``key`` and ``payload`` for all parts.

    Raises:
        NDSError: it cannot be written.
    """
    table = table.replace_schema_metadata(table_metadata(kind, key, {"part": number, **payload}))
    with _written_whole(join(folder, part_name(number))) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP)


def write_head(folder: StrPath, kind: str, key: str, payload: Mapping[str, Any]) -> None:
    """Say that all parts are there, and what is true of the whole.

    Raises:
        NDSError: a part is missing, damaged or of another artefact; it cannot be written.
    """
    sizes = listing(folder)
    sizes.pop(HEAD, None)
    found = _unsealed(folder, kind, sizes)
    if found.header["key"] != key:
        raise DamagedFileError(
            f"the parts in {folder} are of another {kind} (key {found.header['key'][:12]}, not {key[:12]}): write it anew."
        )
    parts = [{"rows": rows, "bytes": sizes[part_name(i)]} for i, rows in enumerate(found.rows)]
    document = {"kind": kind, "version": VERSION, "key": key, **payload, "parts": parts}
    with _written_whole(join(folder, HEAD)) as file:
        file.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def is_in_parts(path: StrPath) -> bool:
    """Whether a name is that of a folder of parts and not of one file."""
    return not str(path).endswith(".parquet") and any(_PART.fullmatch(n) or n == HEAD for n in listing(path))


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
        if str(path).endswith(".parquet"):
            return _one_file(path, kind)
        sizes = listing(path)
        if HEAD in sizes:
            return _sealed(path, kind, sizes)
        if not any(map(_PART.fullmatch, sizes)):
            raise not_there(kind, path)
        return _unsealed(path, kind, sizes)

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
        with _parquet(self.files[number]) as opened:
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


def _one_file(path: StrPath, kind: str) -> Parts:
    if not is_file(path):
        raise not_there(kind, path)
    header, rows = _footer(str(path), kind)
    return Parts(str(path), header, [str(path)], [rows])


def _sealed(folder: StrPath, kind: str, sizes: Mapping[str, int]) -> Parts:
    """The parts that a head names."""
    place = join(folder, HEAD)
    try:
        header = json.loads(_content(place))
        parts = [(int(entry["rows"]), int(entry["bytes"])) for entry in header.pop("parts")]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedFileError(
            f"{place} is not the head of a folder of parts: make the {kind} again."
        ) from None
    check_header(header, kind, place)
    for number, (_, size) in enumerate(parts):
        name = part_name(number)
        if name not in sizes:
            raise MissingFileError(
                f"{join(folder, name)} is missing: the {kind} has {len(parts)} parts; copy it here or make the {kind} again."
            )
        if sizes[name] != size:
            raise DamagedFileError(
                f"{join(folder, name)} is not whole: {sizes[name]} bytes, expected {size}; copy it again or make the {kind} "
                "again."
            )
    known = set(map(part_name, range(len(parts))))
    if strange := sorted(name for name in sizes if _PART.fullmatch(name) and name not in known):
        raise DamagedFileError(
            f"{join(folder, strange[0])} is not a part of this {kind}, which has {len(parts)}: remove what an earlier one left."
        )
    return Parts(
        str(folder), header, [join(folder, part_name(i)) for i in range(len(parts))], [p[0] for p in parts]
    )


def _unsealed(folder: StrPath, kind: str, sizes: Mapping[str, int]) -> Parts:
    """Parts without a head, such as several processes leave them: the numbers must have no hole."""
    numbers = sorted(int(match[1]) for match in map(_PART.fullmatch, sizes) if match)
    count = numbers[-1] + 1 if numbers else 1
    header: dict[str, Any] = {}
    files: list[str] = []
    rows: list[int] = []
    for number in range(count):
        file = join(folder, part_name(number))
        if part_name(number) not in sizes:
            raise MissingFileError(
                f"{file} is missing: the {kind} has {count} parts or more: make that part again."
            )
        found, length = _footer(file, kind)
        count_told = found.pop("parts", None)
        if found.pop("part", number) != number or (count_told is not None and count_told < count):
            raise DamagedFileError(f"{file} is another part than its name says: make the {kind} again.")
        if count_told is not None and count_told > count:
            raise MissingFileError(
                f"{join(folder, part_name(count))} is missing: the {kind} has {count_told} parts: make that part again."
            )
        header = header or found
        if found["key"] != header["key"]:
            raise DamagedFileError(
                f"{file} was made from other inputs than {files[0]} (key {found['key'][:12]}, not {header['key'][:12]}): "
                f"make the {kind} again."
            )
        files.append(file)
        rows.append(length)
    return Parts(str(folder), header, files, rows)


def _footer(file: str, kind: str) -> tuple[dict[str, Any], int]:
    with _parquet(file) as opened:
        header = table_header(opened.schema_arrow, file)
        check_header(header, kind, file)
        return header, int(opened.metadata.num_rows)


@contextlib.contextmanager
def _parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what is wrong with it becomes one line, also where it comes to light in the block."""
    try:
        # Of a URL, the ranges of a row group's columns are fetched together.
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_binary(file)) if is_url(file) else local_path(file)
            yield stack.enter_context(pq.ParquetFile(source, pre_buffer=is_url(file)))
    except FileNotFoundError:
        raise MissingFileError(
            f"{file} is missing: it was there a moment ago; is another process at it?"
        ) from None
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{file} is not a complete Parquet file ({text}): make it again.") from None


def _content(file: str) -> bytes:
    if is_url(file):
        return read_bytes(file)
    with open_binary(file) as opened:
        return opened.read()


@contextlib.contextmanager
def _written_whole(file: str) -> Iterator[IO[bytes]]:
    # An object store shows a file once all of it is there.
    with upload(file) if is_url(file) else atomic_write(local_path(file)) as opened:
        yield opened
