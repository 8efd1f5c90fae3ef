"""The index of a folder of images."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from coco_files import write_image
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.images import reading as images
from nds_plugin.source.folder import check_files, index_folder


def test_folder_index_is_sorted_relative_and_recursive(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    write_image(root / "z.PNG", 20, 10)
    write_image(root / "day 1" / "a.jpg", 30, 40)
    write_image(root / ".hidden" / "x.jpg")
    write_image(root / "._ghost.jpg")
    (root / "notes.txt").write_text("no image")
    index = index_folder(root)
    assert index.column("image_id").tolist() == ["day 1/a.jpg", "z.PNG"]
    assert index.column("width").tolist() == [30, 20]
    assert index.column("height").tolist() == [40, 10]
    assert index.sources == ["photos"]
    assert check_files(index) == []
    assert index_folder(tmp_path / "photos", source="mine").sources == ["mine"]


def test_folder_sizes_are_those_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    index = index_folder(tmp_path)
    assert (index[0].width, index[0].height) == (20, 30)


def test_a_folder_reached_twice_counts_once(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    assert len(index_folder(tmp_path)) == 1


def test_unreadable_files_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "good.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    with caplog.at_level(logging.WARNING):
        index = index_folder(tmp_path)
    assert index.column("image_id").tolist() == ["good.jpg"]
    (record,) = caplog.records
    assert "2 of 3 images" in record.getMessage()
    assert "empty.jpg" in record.getMessage()
    assert "text.png" in record.getMessage()


def test_a_decompression_bomb_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "good.png", 10, 10)
    write_image(tmp_path / "large.png", 50, 50)
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    index = index_folder(tmp_path)
    assert index.column("image_id").tolist() == ["good.png"]
    assert "large.png" in caplog.text


def test_folders_without_images_are_errors(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match=r"image folder .*none does not exist"):
        index_folder(tmp_path / "none")
    with pytest.raises(NDSError, match=r"no image in this folder .*it holds no file"):
        index_folder(tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(NDSError, match=r"is not a folder"):
        index_folder(tmp_path / "bad.jpg")
    with pytest.raises(NDSError, match=r"none of the 1 images in .* can be read, first: bad\.jpg"):
        index_folder(tmp_path)
