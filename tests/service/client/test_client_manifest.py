"""Every image of a manifest has a place of its own below the output folder, whatever the names say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.service.client.checks import parse_checksum
from nds_plugin.service.client.manifest import plan, read_manifest

HEADER = "source,image_id,cluster,p,url,license,checksum,file_name"


def _row(source: str, image_id: str, file_name: str, url: str = "http://h/x.jpg") -> dict[str, str]:
    return {
        "source": source,
        "image_id": image_id,
        "url": url,
        "checksum": "",
        "size": "",
        "file_name": file_name,
    }


def _paths(*rows: dict[str, str]) -> list[str]:
    return [image.path for image in plan(rows, "test")]


def test_names_stay_as_in_the_source() -> None:
    assert _paths(
        _row("coco_2017_train", "9", "000000000009.jpg"),
        _row("my photos", "a", "sub/Müller (1).JPG"),
        _row("x", "b", "", "http://h/p/a%20b.jpg?size=1"),
    ) == ["coco_2017_train/000000000009.jpg", "my photos/sub/Müller (1).JPG", "x/a b.jpg"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../b",
        "..\\..\\b",
        "C:\\x",
        "a\x00b",
        "\n",
        ".ssh",
        "~",
        "-rf",
    ],
)
@pytest.mark.parametrize("place", ["source", "image_id", "file_name", "url"])
def test_no_name_leads_out_of_the_folder(name: str, place: str) -> None:
    row = _row("s", "i", "f.jpg")
    row[place] = name
    if place in ("url", "image_id"):
        row["file_name"] = ""
    (path,) = _paths(row)
    parts = PurePosixPath(path).parts
    assert not path.startswith("/")
    assert len(parts) >= 2
    assert not any(part.startswith(".") or "\\" in part or not part.isprintable() for part in parts)


def test_long_names_are_cut_and_stay_apart() -> None:
    paths = _paths(_row("s", "1", "a" * 500 + "1.jpg"), _row("s", "2", "a" * 500 + "2.jpg"))
    assert len(set(paths)) == 2
    assert all(len(path) < 255 and path.endswith(".jpg") for path in paths)


def test_images_of_one_name_are_told_apart_by_their_ids_whatever_their_order() -> None:
    rows = [
        _row("s", "cat/1.jpg", "1.jpg"),
        _row("s", "dog/1.jpg", "1.jpg"),
        _row("s", "17", "1.JPG"),
        _row("t", "1", "1.jpg"),
    ]
    paths = _paths(*rows)
    assert paths[:2] == ["s/cat/1.jpg", "s/dog/1.jpg"]
    assert paths[2].startswith("s/1-")
    assert paths[3] == "t/1.jpg"
    assert _paths(*reversed(rows)) == list(reversed(paths))


def test_two_images_never_go_to_one_file() -> None:
    with pytest.raises(NDSError, match=r"2 images would go to the same file s/a/1\.jpg"):
        _paths(_row("s", "a/1.jpg", "1.jpg"), _row("s", "b/1.jpg", "1.jpg"), _row("s", "3", "a/1.jpg"))


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f'{HEADER}\ncoco,9,0,0.5,"http://h/a,b.jpg",CC,,9.jpg\n')
    columns = {
        "source": ["coco"],
        "image_id": ["9"],
        "url": ["http://h/a,b.jpg"],
        "checksum": [""],
        "file_name": ["9.jpg"],
    }
    table = pa.table(columns).set_column(0, "source", pa.array(["coco"]).dictionary_encode())
    pq.write_table(table, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.csv") == read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column image_id, source, url"),
        ("a,b\n1,2\n", "no column image_id, source, url"),
        (f"{HEADER}\n", "holds no image"),
        (f"{HEADER}\ncoco,9,0\n", "line 2: a row of another number of columns"),
        (f"{HEADER}\ncoco,9,0,1,http://h/,,,9.jpg,more\n", "another number of columns"),
        (f'{HEADER}\ncoco,9,0,1,"http://h/', "not a whole CSV file"),
        (
            f"{HEADER}\ncoco,9,0,1,u,,,9.jpg\ncoco,9,0,1,u,,,9.jpg\n",
            "1 images occur twice, first '9' of 'coco'",
        ),
        ("source,image_id,url,size\na,b,u,many\n", "size of image 'b' is 'many', not a number"),
    ],
)
def test_a_manifest_that_is_not_in_order_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(NDSError, match=message):
        read_manifest(tmp_path / "m.csv")


def test_a_manifest_that_is_missing_or_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="manifest not found"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(NDSError, match="not a whole Parquet file"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "text", ["xyz", "md5:" + "0" * 64, "sha256:" + "0" * 32, "crc32:00000000", "g" * 32, "=" * 24]
)
def test_checksums_of_another_form_are_named(text: str) -> None:
    with pytest.raises(NDSError, match="expected MD5 or SHA-256"):
        parse_checksum(text)


def test_looking_searching_and_downloading_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "from nds_plugin.service.client import cli, cache, download, verbs\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
