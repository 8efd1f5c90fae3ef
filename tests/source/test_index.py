from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from nds_plugin.source.features import log_unreadable
from nds_plugin.source.index import ImageRecord, SourceIndex, take_rows

RECORDS = [
    ImageRecord("s", f"é{i}", f"{i}.jpg", 40 + i, 30, label=i % 3, checksum="" if i % 2 else f"md5:{i}")
    for i in range(100)
]


def _hash(records: list[ImageRecord], classes: tuple[str, ...] = ("a", "b", "c")) -> str:
    return SourceIndex.from_records(records, classes).hash


def test_the_hash_is_of_the_content_and_not_of_its_place_in_memory() -> None:
    index = SourceIndex.from_records(RECORDS, ("a", "b", "c"))
    parts = [index.table.slice(0, 33), index.table.slice(33, 40), index.table.slice(73)]
    assert SourceIndex(pa.concat_tables(parts), index.classes).hash == index.hash
    assert SourceIndex(index.table.slice(50), index.classes).hash == _hash(RECORDS[50:])
    moved = [dataclasses.replace(record, file_name=f"/elsewhere/{record.file_name}") for record in RECORDS]
    assert _hash(moved) == index.hash


@pytest.mark.parametrize(
    "change",
    [{"source": "t"}, {"image_id": "é50x"}, {"width": 1}, {"height": 1}, {"label": 0}, {"checksum": "md5:x"}],
)
def test_the_hash_tells_every_decisive_column(change: dict[str, object]) -> None:
    records = [*RECORDS[:50], dataclasses.replace(RECORDS[50], **change), *RECORDS[51:]]  # type: ignore[arg-type]
    assert _hash(records) != _hash(RECORDS)
    assert _hash(RECORDS, ("a", "b", "x")) != _hash(RECORDS)


def test_text_that_moves_between_neighbours_changes_the_hash() -> None:
    ab = [ImageRecord("s", "ab", ""), ImageRecord("s", "c", "")]
    bc = [ImageRecord("s", "a", ""), ImageRecord("s", "bc", "")]
    assert _hash(ab, ()) != _hash(bc, ())


def test_rows_of_a_column_with_more_text_than_arrow_joins(caplog: pytest.LogCaptureFixture) -> None:
    """2.5 GB of paths, in memory once: the pieces are the same."""
    piece = pa.array(["a.jpg", "b" * 128_000_000])
    paths = pa.chunked_array([piece] * 20)
    with pytest.raises(pa.ArrowInvalid):  # what is asked of take_rows
        paths.take(pa.array([0, 2]))

    taken = take_rows(pa.table({"file_name": paths}), np.array([0, 2, 2, 38]))
    log_unreadable(np.arange(40) != 38, paths)

    assert taken.column(0).to_pylist() == ["a.jpg"] * 4
    assert "1 of 40 images cannot be read: a.jpg" in caplog.text
