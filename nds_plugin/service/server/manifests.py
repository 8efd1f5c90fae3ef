"""A search's images as CSV, JSON, Parquet and COCO ids, in pieces: memory does not grow with their number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from nds_plugin.files.artifacts import content_hash, table_metadata
from nds_plugin.selection.selection import COLUMNS, KIND
from nds_plugin.service.published.store import PublishedSet
from nds_plugin.service.server.selecting import Drawn

CSV_COLUMNS = ("source", "image_id", "cluster", "p", "url", "license", "checksum", "file_name")
_ROW_GROUP = 32_768
_ESCAPED = r'["\\\x00-\x1f]'  # what JSON does not take as it is


def image_batches(
    published: PublishedSet, drawn: Drawn, start: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The drawn images in record batches with the columns ``CSV_COLUMNS``."""

    def with_p(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = {name: batch.column(name) for name in CSV_COLUMNS if name != "p"}
        columns["p"] = pa.array(drawn.rates[batch.column("cluster").to_numpy()])
        return pa.RecordBatch.from_pydict({name: columns[name] for name in CSV_COLUMNS})

    # By map here and below, not in a generator's loop: its variables would hold the last batch of every
    # download while the client takes its time.
    return map(with_p, published.rows.take(drawn.rows[start:stop]))


def image_rows(published: PublishedSet, drawn: Drawn, start: int, stop: int) -> list[dict[str, Any]]:
    """Some of the drawn images as dicts."""
    return [row for batch in image_batches(published, drawn, start, stop) for row in batch.to_pylist()]


def rows_at(published: PublishedSet, rows: list[int]) -> list[dict[str, Any]]:
    """Rows of the index, ascending, as dicts."""
    return [
        row for batch in published.rows.take(np.asarray(rows, dtype=np.int64)) for row in batch.to_pylist()
    ]


def as_csv(published: PublishedSet, drawn: Drawn) -> Iterator[bytes]:
    """Comma-separated values with a header line; text is quoted where it must be."""
    yield (",".join(CSV_COLUMNS) + "\n").encode()
    yield from map(_csv_lines, image_batches(published, drawn))


def _csv_lines(batch: pa.RecordBatch) -> bytes:
    for name in ("source", "license"):
        position = batch.schema.get_field_index(name)
        text = batch.column(position).cast(pa.string())
        batch = batch.set_column(position, pa.field(name, pa.string()), text)
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(batch, sink, pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
    return bytes(sink.getvalue().to_pybytes())


def as_json(published: PublishedSet, drawn: Drawn, head: dict[str, Any]) -> Iterator[bytes]:
    """A JSON object: ``head`` and ``images``, a list of objects."""
    opening = json.dumps({**head, "images": []}, allow_nan=False)
    yield opening[:-2].encode()
    pieces = map(_json_objects, image_batches(published, drawn))
    yield next(pieces, b"")
    yield from (b"," + piece for piece in pieces)
    yield b"]}\n"


def _json_objects(batch: pa.RecordBatch) -> bytes:
    """The rows of a batch as JSON objects with commas between them.

    Put together by Arrow, six times as fast as by ``json``, where no text needs an escape.
    """
    pieces: list[Any] = []
    for number, name in enumerate(batch.schema.names):
        column = batch.column(number).cast(pa.string())
        if name in ("cluster", "p"):
            pieces += [f'{"{" if number == 0 else ","}"{name}":', column]
            continue
        if pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
            return json.dumps(batch.to_pylist(), separators=(",", ":"), allow_nan=False)[1:-1].encode()
        pieces += [f'{"{" if number == 0 else ","}"{name}":"', column, '"']
    rows = pc.binary_join_element_wise(*pieces, "}", "")
    return bytes(pc.binary_join(pa.ListArray.from_arrays([0, len(rows)], rows), ",")[0].as_buffer())


def as_coco(published: PublishedSet, drawn: Drawn) -> Iterator[bytes]:
    """A JSON object of image ids by source, as numbers where all ids of the source are numbers."""
    yield b"{"
    comma = ""
    source = published.source[drawn.rows]
    for number, name in enumerate(published.source_names):
        rows = drawn.rows[source == number]
        if len(rows) == 0:
            continue
        whole = published.info["sources"][number].get("numbered", False)
        yield f"{comma}{json.dumps(name)}: [".encode()
        inner = ""
        for batch in published.rows.take(rows):
            ids = batch.column("image_id").to_pylist()
            text = ",".join(ids) if whole else json.dumps(ids)[1:-1]
            yield (inner + text).encode()
            inner = ","
        yield b"]"
        comma = ", "
    yield b"}\n"


def as_parquet(published: PublishedSet, drawn: Drawn) -> Iterator[bytes]:
    """A selection artefact, as :meth:`nds_plugin.selection.selection.Selection.save` writes it."""
    payload = {"mode": "subset", "weights": drawn.weights.tolist(), **drawn.info}
    metadata = table_metadata(KIND, content_hash(payload), payload)
    schema = pa.schema(
        [
            ("source", pa.dictionary(pa.int32(), pa.string())), ("image_id", pa.string()), ("cluster", pa.int32()),
            ("p", pa.float64()), ("url", pa.string()), ("license", pa.string()), ("checksum", pa.string()),
        ],
        metadata=metadata,
    )  # fmt: skip
    assert tuple(schema.names) == COLUMNS
    sink = _Outlet()
    held: list[pa.RecordBatch] = []
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in image_batches(published, drawn):
            held.append(batch)
            if sum(map(len, held)) >= _ROW_GROUP:
                writer.write_table(_cast(held, schema))
                held, batch = [], None
                yield sink.taken()
        if held:
            writer.write_table(_cast(held, schema))
    yield sink.taken()


def _cast(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches).select(schema.names).cast(schema)


class _Outlet(io.RawIOBase):
    """A file that is written once from front to back, and whose bytes are taken away on the way."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


FORMATS: dict[str, tuple[str, str]] = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "json": ("application/json", "json"),
    "parquet": ("application/vnd.apache.parquet", "parquet"),
    "coco": ("application/json", "coco.json"),
}


def stream(format_name: str, published: PublishedSet, drawn: Drawn, head: dict[str, Any]) -> Iterator[bytes]:
    """The manifest in one of ``FORMATS``."""
    makers: dict[str, Callable[[], Iterator[bytes]]] = {
        "csv": lambda: as_csv(published, drawn),
        "json": lambda: as_json(published, drawn, head),
        "parquet": lambda: as_parquet(published, drawn),
        "coco": lambda: as_coco(published, drawn),
    }
    return makers[format_name]()
