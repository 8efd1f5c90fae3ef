"""Images of an object store: the same pixels as from the disk, the same kind of error."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from nds_plugin.errors import MissingPackageError
from nds_plugin.images.reading import ImageError, NotAnImageError, load_image, read_header, region_path
from nds_plugin.source.folder import check_files, file_sizes, index_folder
from nds_plugin.source.index import ImageRecord, SourceIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.jpg", "sub/b.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> str:
    """The same files in an object store."""
    place = f"memory://{uuid.uuid4().hex}/photos"
    for path in folder.rglob("*.*"):
        with fsspec.open(f"{place}/{path.relative_to(folder)}", "wb") as file:
            file.write(path.read_bytes())
    return place


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.png"])
def test_pixels_and_headers_are_those_of_the_file_on_the_disk(folder: Path, url: str, name: str) -> None:
    for place in (url, f"file://{folder}"):
        for side in (None, 8):
            there = np.asarray(load_image(f"{place}/{name}", side))
            assert np.array_equal(there, np.asarray(load_image(folder / name, side)))
        assert read_header(f"{place}/{name}") == read_header(folder / name)
        part = load_image(region_path(f"{place}/{name}", 2, 3, 8, 9))
        assert np.array_equal(part, load_image(region_path(folder / name, 2, 3, 8, 9)))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("none.jpg", ImageError, "no such image file"),
        ("cut.jpg", ImageError, "the image is cut short|the image is broken"),
        ("text.png", NotAnImageError, "not an image, or of a format that Pillow does not read"),
        ("empty.jpg", NotAnImageError, r"the file is empty \(0 bytes\)"),
        ("a.npy#3", ImageError, "an array of images is read from this machine's disks alone"),
    ],
)
def test_a_broken_image_at_a_url_is_told_as_one_on_the_disk(
    url: str, name: str, kind: type[ImageError], message: str
) -> None:
    with pytest.raises(kind, match=f"{url}/{name}.*({message})"):
        load_image(f"{url}/{name}")


def test_a_missing_package_is_not_taken_for_a_broken_image() -> None:
    with pytest.raises(MissingPackageError, match="python -m pip install s3fs"):
        load_image("s3://bucket/a.jpg")


def test_a_folder_at_a_url_is_indexed_as_one_on_the_disk(folder: Path, url: str) -> None:
    here, there = index_folder(folder, "s"), index_folder(url, "s")
    assert there.hash == here.hash
    assert there.column("file_name").tolist() == [f"{url}/a.jpg", f"{url}/sub/b.png"]
    assert index_folder(f"file://{folder}", "s").table.equals(here.table)
    assert index_folder(url).sources == ["photos"]


def test_sizes_of_files_are_those_on_the_disk(folder: Path, url: str) -> None:
    names = ["a.jpg", "sub/b.png", "cut.jpg", "gone.jpg", "x/y.jpg", "a.jpg"]
    whole = (folder / "a.jpg").stat().st_size
    expected = [whole, (folder / "sub/b.png").stat().st_size, 200, -1, -1, whole]
    for place in (folder, url, f"file://{folder}"):
        assert file_sizes(f"{place}/{name}" for name in names) == expected


def test_missing_images_are_found_at_urls_too(folder: Path, url: str) -> None:
    names = [
        f"{url}/a.jpg",
        f"{url}/gone.jpg",
        str(folder / "a.jpg"),
        f"file://{folder}/sub/b.png",
        f"{url}/x/y.jpg",
    ]
    index = SourceIndex.from_records([ImageRecord("s", name, name) for name in names])
    assert check_files(index) == [names[1], names[4]]
    assert check_files(index, sample=4) == [names[1], names[4]]
