"""Columns on their way into a store, kept on disk: memory use does not grow with the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import cannot_write
from nds_plugin.store.schema import Ragged, text_parts

_STEP = 1 << 20
_MOST = 2**31 - 1  # Arrow's offsets are int32


class FixedSpool:
    """A column of numbers that is appended to, then read at any rows.

    Args:
        path: file that holds the raw values.
        dtype, width: of one row; width 1 gives one-dimensional columns.
    """

    def __init__(self, path: Path, dtype: Any, width: int = 1) -> None:
        self.path, self.dtype, self.width = path, np.dtype(dtype), width
        self.rows = 0
        self._file: IO[bytes] | None = None

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add rows at the end."""
        try:
            if self._file is None:
                self._file = open(self.path, "wb")  # noqa: SIM115  (open until close)
            self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.rows += len(values)

    def pad(self, rows: int, value: Any) -> None:
        """Add rows of one value until there are so many."""
        while self.rows < rows:
            step = min(_STEP, rows - self.rows)
            self.append(np.full(step if self.width == 1 else (step, self.width), value, dtype=self.dtype))

    def values(self) -> npt.NDArray[Any]:
        """All rows, memory-mapped; nothing may be appended any more."""
        shape: Any = (self.rows,) if self.width == 1 else (self.rows, self.width)
        if self.rows == 0:
            return np.zeros(shape, dtype=self.dtype)
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._file = None
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=shape)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copies of some rows."""
        if len(rows) and in_a_row(rows):
            return self.slice(int(rows[0]), int(rows[-1]) + 1)
        return np.asarray(self.values()[rows])

    def take_ranges(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copies of some runs of rows, one after the other; costs no index for each value."""
        values = np.asarray(self.values())
        parts = [values[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist()) if n]
        return np.concatenate(parts) if parts else values[:0]

    def leaf_edges(self) -> npt.NDArray[np.int64]:
        """Where the values of each row begin, and the end of the last; shape (rows + 1,)."""
        return np.arange(self.rows + 1, dtype=np.int64)

    def slice(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows that follow each other: a view of the file."""
        return np.asarray(self.values()[start:stop])

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class RaggedSpool:
    """A column of rows of unequal length; ``child`` takes their values."""

    def __init__(self, path: Path, child: FixedSpool | RaggedSpool) -> None:
        self.lengths = FixedSpool(path.with_suffix(".lengths"), np.int32)
        self.child = child
        self._starts: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """Number of rows so far."""
        return self.lengths.rows

    def append(self, column: Ragged) -> None:
        """Add rows at the end."""
        self.lengths.append(np.asarray(column.lengths))
        self.child.append(column.values)  # type: ignore[arg-type]

    def pad(self, rows: int) -> None:
        """Add empty rows until there are so many."""
        self.lengths.pad(rows, 0)

    def take(self, rows: npt.NDArray[np.int64]) -> Ragged:
        """Copies of some rows."""
        if len(rows) and in_a_row(rows):
            return self.slice(int(rows[0]), int(rows[-1]) + 1)
        edges = self._edges()
        starts = edges[rows]
        lengths = edges[rows + 1] - starts
        return Ragged(lengths, self.child.take_ranges(starts, lengths))

    def take_ranges(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Ragged:
        """Copies of some runs of rows, one after the other."""
        ends = np.cumsum(lengths)
        rows = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        return self.take(rows)

    def leaf_edges(self) -> npt.NDArray[np.int64]:
        """Where the innermost values of each row begin, and the end of the last; shape (rows + 1,)."""
        edges = self._edges()
        return edges if isinstance(self.child, FixedSpool) else self.child.leaf_edges()[edges]

    def slice(self, start: int, stop: int) -> Ragged:
        """Rows that follow each other: views of the files. An index for each value would be eight
        times a text."""
        edges = self._edges()
        values = self.child.slice(int(edges[start]), int(edges[stop]))
        return Ragged(self.lengths.slice(start, stop), values)

    def _edges(self) -> npt.NDArray[np.int64]:
        if self._starts is None:
            lengths = self.lengths.values()
            self._starts = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(lengths, out=self._starts[1:])
        return self._starts

    def close(self) -> None:
        """Let go of the files."""
        self.lengths.close()
        self.child.close()


class TextSpool(RaggedSpool):
    """A column of text."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FixedSpool(path, np.uint8))

    def append_text(self, column: pa.Array) -> None:
        """Add an Arrow text column without nulls."""
        if len(column):
            starts, data = text_parts(column.cast(pa.string()))
            self.append(Ragged(np.diff(starts), np.frombuffer(data[starts[0] : starts[-1]], np.uint8)))

    def take_text(self, rows: npt.NDArray[np.int64]) -> pa.Array:
        """Some rows as an Arrow text column."""
        return to_arrow(self.take(rows), pa.string())


def in_a_row(rows: npt.NDArray[np.int64]) -> bool:
    """Whether rows follow each other."""
    return bool(rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all())


def to_arrow(column: Ragged, kind: pa.DataType) -> pa.Array:
    """A ragged column as an Arrow list, binary or text array without nulls."""
    total = int(np.sum(column.lengths, dtype=np.int64))
    if total > _MOST:
        raise NDSError(f"{total} values in one record batch of a store, it can hold {_MOST}.")
    offsets = np.zeros(len(column) + 1, dtype=np.int32)
    np.cumsum(column.lengths, out=offsets[1:])
    if isinstance(column.values, Ragged):
        return pa.ListArray.from_arrays(pa.array(offsets), to_arrow(column.values, kind.value_type))
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(column.values, kind.value_type))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(column.values))]
    return pa.Array.from_buffers(kind, len(column), buffers)


def close_all(spools: Sequence[FixedSpool | RaggedSpool]) -> None:
    """Let go of the files of some columns."""
    for spool in spools:
        spool.close()


def ragged_spool(path: Path, kind: pa.DataType) -> RaggedSpool:
    """A spool for a column of this Arrow type: binary, or lists (of lists) of numbers."""
    if pa.types.is_binary(kind):
        return RaggedSpool(path, FixedSpool(path, np.uint8))
    if pa.types.is_list(kind.value_type):
        return RaggedSpool(path, ragged_spool(path.with_name(path.name + "_part"), kind.value_type))
    return RaggedSpool(path, FixedSpool(path, np.float64))


def take_ids(ids: Any, rows: npt.NDArray[np.int64]) -> pa.Array:
    """Some ids, which are numbers or text, as an Arrow column."""
    return ids.take(pa.array(rows)) if isinstance(ids, pa.Array) else pa.array(ids[rows])


def id_at(ids: Any, row: int) -> Any:
    """One id."""
    return ids[int(row)].as_py() if isinstance(ids, pa.Array) else int(ids[row])
