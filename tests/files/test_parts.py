"""Artefacts in parts: what is whole is read, what is not is told in one line, of this machine or at a URL."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from nds_plugin.errors import DamagedFileError, MissingFileError, MissingPackageError, NDSError
from nds_plugin.files import locations, parts
from nds_plugin.files.part_files import HEAD, is_in_parts, part_name
from nds_plugin.files.parts import Parts, read_whole, write_head, write_part

KIND = "index"
TABLE = pa.table({"number": np.arange(100_000, dtype=np.int32), "text": [f"é{i}" for i in range(100_000)]})


def _write(folder: str, key: str = "key") -> str:
    """Three parts; in the second a row group ends in the middle."""
    for number, (start, count) in enumerate([(0, 20_000), (20_000, 50_000), (70_000, 30_000)]):
        write_part(folder, number, KIND, key, TABLE.slice(start, count), {"classes": ["a"]})
    return folder


@pytest.fixture(params=["local", "memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new folder on the disk, by its path and by its URL, and one of an object store."""
    url = f"memory://{uuid.uuid4().hex}/index"
    return {"local": str(tmp_path / "index"), "memory": url, "file": f"file://{tmp_path}/index"}[
        request.param
    ]


def test_rows_come_back_in_order_as_a_whole_in_batches_and_one_by_one(place: str) -> None:
    write_head(_write(place), KIND, "key", {"classes": ["a"], "hash": "h"})
    found = Parts.open(place, KIND)
    assert is_in_parts(place)
    assert len(found) == 100_000
    assert (found.header["classes"], found.header["hash"], found.header["key"]) == (["a"], "h", "key")
    assert read_whole(place, KIND)[0].equals(TABLE)
    rows = [(start, batch.column(0).to_numpy()) for start, batch in found.batches(["number"], 9_999)]
    assert np.array_equal(np.concatenate([numbers for _, numbers in rows]), np.arange(100_000))
    assert all(numbers[0] == start for start, numbers in rows)
    wanted = np.array([0, 19_999, 20_000, 20_001 + parts.ROW_GROUP, 69_999, 99_999])
    assert pa.concat_tables(found.take(["text"], wanted)).equals(
        TABLE.take(pa.array(wanted)).select(["text"])
    )


def test_parts_can_be_read_before_a_head_is_written(place: str) -> None:
    found = Parts.open(_write(place), KIND)
    assert found.read().equals(TABLE)
    assert found.header["classes"] == ["a"]


def _remove(folder: Path) -> None:
    (folder / part_name(1)).unlink()


def _cut(folder: Path) -> None:
    path = folder / part_name(1)
    path.write_bytes(path.read_bytes()[:-100])


def _other(folder: Path) -> None:
    write_part(str(folder), 1, KIND, "another", TABLE.slice(0, 10), {})


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    ("harm", "kind", "when_sealed", "when_not"),
    [
        (_remove, MissingFileError, "part-00001.parquet is missing: the index has 3 parts", "is missing"),
        (
            _cut,
            DamagedFileError,
            r"part-00001.parquet is not whole: \d+ bytes, expected",
            "not a complete Parquet",
        ),
        (_other, DamagedFileError, "is not whole", "was made from other inputs than"),
    ],
)
def test_a_part_that_is_missing_or_not_whole_is_told_by_name(
    tmp_path: Path, sealed: bool, harm, kind: type[NDSError], when_sealed: str, when_not: str
) -> None:
    _write(str(tmp_path))
    if sealed:
        write_head(tmp_path, KIND, "key", {})
    harm(tmp_path)
    with pytest.raises(kind, match=when_sealed if sealed else when_not) as caught:
        Parts.open(tmp_path, KIND)
    assert "\n" not in str(caught.value)


def test_damage_inside_a_part_is_told_when_it_is_read(tmp_path: Path) -> None:
    write_head(_write(str(tmp_path)), KIND, "key", {})
    path = tmp_path / part_name(1)
    content = bytearray(path.read_bytes())
    content[1_000:9_000] = bytes(8_000)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="part-00001.parquet is not a complete Parquet file"):
        list(Parts.open(tmp_path, KIND).batches(["number", "text"]))


def test_what_an_earlier_writing_left_is_no_part(tmp_path: Path) -> None:
    write_head(_write(str(tmp_path)), KIND, "key", {})
    write_part(str(tmp_path), 3, KIND, "key", TABLE, {})
    with pytest.raises(DamagedFileError, match="part-00003.parquet is not a part of this index, which has 3"):
        Parts.open(tmp_path, KIND)


def test_a_head_is_not_written_over_a_hole(tmp_path: Path) -> None:
    _write(str(tmp_path))
    _remove(tmp_path)
    with pytest.raises(MissingFileError, match="part-00001.parquet is missing"):
        write_head(tmp_path, KIND, "key", {})
    assert not (tmp_path / HEAD).exists()


def test_a_damaged_head_another_kind_a_lacking_column_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    write_head(_write(str(tmp_path)), KIND, "key", {})
    with pytest.raises(DamagedFileError, match="expected a file of kind 'partition', got 'index'"):
        Parts.open(tmp_path, "partition")
    with pytest.raises(DamagedFileError, match=r"part-00000.parquet lacks the columns cluster"):
        list(Parts.open(tmp_path, KIND).batches(["cluster"]))
    head = json.loads((tmp_path / HEAD).read_text())
    for content in ("{", "[]", json.dumps({**head, "parts": [1]}), json.dumps({**head, "parts": None})):
        (tmp_path / HEAD).write_text(content)
        with pytest.raises(
            DamagedFileError, match="is not the head of a folder of parts: make the index again"
        ):
            Parts.open(tmp_path, KIND)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", "memory://nowhere", "memory://nowhere/index.parquet"):
        with pytest.raises(MissingFileError, match="index file not found"):
            read_whole(nothing, KIND)


def test_more_rows_than_fit_into_memory_are_refused_with_the_number(tmp_path: Path) -> None:
    write_head(_write(str(tmp_path)), KIND, "key", {})
    with pytest.raises(NDSError, match="100,000 images, of which at most 99,999 are read into memory"):
        read_whole(tmp_path, KIND, most=99_999)


def test_one_file_at_a_url_is_read_as_one_of_this_machine(tmp_path: Path) -> None:
    from nds_plugin.files.artifacts import write_table

    write_table(tmp_path / "index.parquet", KIND, "key", TABLE, {"classes": []})
    url = f"memory://{uuid.uuid4().hex}/index.parquet"
    with fsspec.open(url, "wb") as file:
        file.write((tmp_path / "index.parquet").read_bytes())
    for place in (url, f"file://{tmp_path}/index.parquet", tmp_path / "index.parquet"):
        table, header = read_whole(place, KIND)
        assert table.replace_schema_metadata(None).equals(TABLE)
        assert header["classes"] == []


def test_a_protocol_without_its_package_is_one_line_with_the_pip_command() -> None:
    """No package of these is installed for the tests; of fsspec itself it is pretended."""
    for url, package in (
        ("s3://bucket/index", "s3fs"),
        ("gs://bucket/index", "gcsfs"),
        ("abfs://c/i", "adlfs"),
    ):
        with pytest.raises(MissingPackageError, match=f"needs the package {package}.*pip install {package}$"):
            Parts.open(url, KIND)
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from nds_plugin.files.parts import Parts\n"
        "from nds_plugin.errors import NDSError\n"
        "try: Parts.open('s3://bucket/index', 'index')\n"
        "except NDSError as error: assert str(error).endswith('python -m pip install fsspec'), error\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_unknown_protocol_and_a_store_that_fails_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NDSError, match=r"fsspec knows no protocol of this name; URLs look like s3://"):
        Parts.open("s4://bucket/index", KIND)

    class Closed(fsspec.AbstractFileSystem):
        protocol = "closed"

        def ls(self, path, detail=True, **options):  # type: ignore[no-untyped-def]
            raise RuntimeError("access\ndenied")

    fsspec.register_implementation("closed", Closed, clobber=True)
    with pytest.raises(NDSError, match=r"closed://b/index cannot be reached \(RuntimeError: access denied\)"):
        Parts.open("closed://b/index", KIND)


@pytest.mark.parametrize(
    ("name", "url"),
    [("s3://b/a", True), ("memory://b/a", True), ("file:///a", False), ("/a/b", False), ("a:b", False)],
)
def test_what_is_a_url(name: str, url: bool) -> None:
    assert locations.is_url(name) == url
    assert locations.is_url(Path(name)) is False
    assert locations.local_path("file:///a%20b") == "/a b"


def test_local_files_are_read_without_fsspec(tmp_path: Path) -> None:
    write_head(_write(str(tmp_path)), KIND, "key", {})
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from nds_plugin.files.parts import read_whole\n"
        f"assert len(read_whole({str(tmp_path)!r}, 'index')[0]) == 100_000\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
