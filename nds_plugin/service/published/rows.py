"""The images of a published set as a file that is read a few rows at a time.

An uncompressed Arrow file of small record batches. Rows are picked from one batch after the other
and each batch is let go again, so that a manifest of any length costs the memory of one batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write

BATCH = 4096
SCHEMA = pa.schema(
    [
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("image_id", pa.string()),
        ("file_name", pa.string()),
        ("url", pa.string()),
        ("license", pa.dictionary(pa.int32(), pa.string())),
        ("checksum", pa.string()),
        ("cluster", pa.int32()),
    ]
)


def write_rows(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write the rows file atomically; ``table`` holds the columns of ``SCHEMA``."""
    # Dictionaries are written once, in front of all batches: the whole columns are encoded first.
    columns = []
    for field in SCHEMA:
        column = table.column(field.name)
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string()).combine_chunks().dictionary_encode()
        columns.append(column.cast(field.type))
    whole = pa.Table.from_arrays(columns, schema=SCHEMA).combine_chunks()
    with atomic_write(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(whole, max_chunksize=BATCH)


class Rows:
    """A rows file, opened anew by each reader: readers of several threads share nothing.

    Args:
        path: what :func:`write_rows` wrote.

    Raises:
        NDSError: not a whole rows file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with pa.OSFile(str(path)) as file:
                reader = pa.ipc.open_file(file)
                self._check(reader)
                self.batches = reader.num_record_batches
        except (pa.ArrowInvalid, OSError) as error:
            raise NDSError(f"{path} is not a whole file of rows ({error}): publish the set again.") from None

    def _check(self, reader: pa.ipc.RecordBatchFileReader) -> None:
        if reader.schema != SCHEMA:
            raise NDSError(f"{self._path}: its columns are not those of this release: publish the set again.")

    def columns(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, a batch after the other."""
        options = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index(name) for name in names])
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def take(self, positions: npt.NDArray[np.integer]) -> Iterator[pa.RecordBatch]:
        """The rows at ascending ``positions``, in record batches of at most ``BATCH`` rows."""
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            edges = np.searchsorted(positions, np.arange(self.batches + 1) * BATCH)
            for number in np.flatnonzero(np.diff(edges)).tolist():
                wanted = positions[edges[number] : edges[number + 1]] - number * BATCH
                yield reader.get_batch(number).take(pa.array(wanted))
