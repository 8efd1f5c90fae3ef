"""A folder of images: what Pillow reads is found by its content, what is passed over is counted by kind."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import NOT_DECODED, load_image
from nds_plugin.source.folder import index_folder
from nds_plugin.source.image_folders import list_images


def save(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(path, kind)


def indexed(folder: Path) -> list[str]:
    return [str(name) for name in index_folder(folder).column("file_name")]


READERS = pytest.mark.parametrize("read", [list_images, indexed])
Read = Callable[[Path], list[str]]


@READERS
def test_images_are_told_by_their_content_whatever_their_ending(read: Read, tmp_path: Path) -> None:
    kinds = {
        "a.jfif": "JPEG", "b.avif": "AVIF", "b2.JPE": "JPEG", "c.jp2": "JPEG2000", "d": "JPEG", "e.photo": "PNG",
        "f.txt": "GIF", "g.tga": "TGA", "h_o.jpg?x=1": "WEBP",
    }  # fmt: skip
    for name, kind in kinds.items():
        if kind in Image.SAVE or name[0] in "ad":
            save(tmp_path / name, kind)
    found = read(tmp_path)
    assert [os.path.basename(path) for path in found] == sorted(os.listdir(tmp_path))
    assert all(load_image(path).size == (30, 20) for path in found)


@READERS
def test_what_is_passed_over_is_counted_by_kind_in_one_line(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "below/b.png"):
        save(tmp_path / name, "PNG")
    for name in ("a.txt", "below/b.TXT", "c.json", "README", ".DS_Store", "scan.heic", "v1.2 of my notes"):
        (tmp_path / name).write_bytes(b"[1, 2]" if name == "c.json" else b"text")
    save(tmp_path / ".trash" / "c.jpg", "JPEG")
    with caplog.at_level(logging.INFO):
        assert len(read(tmp_path)) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        f"passed over 7 of 9 files and 1 hidden folder in {tmp_path}: "
        "2 .txt, 1 .heic, 1 .json, 1 hidden, 1 with other endings, 1 without an ending."
    )


@READERS
def test_a_folder_of_images_alone_needs_no_line(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.jpg", "JPEG")
    with caplog.at_level(logging.INFO):
        assert len(read(tmp_path)) == 1
    assert not caplog.records


@READERS
def test_what_cannot_be_an_image_is_never_opened(read: Read, tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", "JPEG")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    assert [os.path.basename(path) for path in read(tmp_path)] == ["a.jpg"]


@READERS
def test_a_folder_without_an_image_names_what_is_there(read: Read, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.heic").write_bytes(b"ftypheic")
    with pytest.raises(NDSError, match=r"no image in this folder or below it \(its files are 3 \.heic\)"):
        read(tmp_path)


@READERS
def test_a_name_that_no_index_can_hold_is_one_line(read: Read, tmp_path: Path) -> None:
    save(tmp_path / "a.png", "PNG")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"gr\xfc\xdfe.png"))  # latin1, from an old archive
    with pytest.raises(
        NDSError, match=r"gr\\udcfc\\udcdfe\.png: the name of this file is not UTF-8"
    ) as error:
        read(tmp_path)
    str(error.value).encode()


@READERS
def test_an_ending_that_cannot_be_written_is_counted_all_the_same(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.png", "PNG")
    (tmp_path / os.fsdecode(b"notes.\xfc")).write_text("[1, 2, 3]")
    with caplog.at_level(logging.INFO, logger="nds_plugin"):
        assert len(read(tmp_path)) == 1
    assert "passed over 1 of 2 files" in caplog.text
    assert "1 with other endings" in caplog.text


def test_a_damaged_image_without_an_ending_is_unreadable_and_not_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.jpg", "JPEG")
    (tmp_path / "cut").write_bytes((tmp_path / "a.jpg").read_bytes()[:30])
    assert len(list_images(tmp_path)) == 2
    assert len(index_folder(tmp_path)) == 1
    assert "1 of 2 images" in caplog.text
    assert "cut (" in caplog.text


@pytest.mark.filterwarnings("ignore:.* image format is deprecated:DeprecationWarning")  # IM, by Pillow 13
def test_no_format_that_pillow_writes_is_taken_for_text(tmp_path: Path) -> None:
    Image.init()
    written = []
    for kind in sorted(Image.SAVE.keys() & Image.OPEN.keys() - NOT_DECODED):
        for mode in ("RGB", "L", "1", "F"):
            path = tmp_path / f"{kind}_{mode}"
            try:
                Image.new(mode, (30, 20)).save(path, kind)
                load_image(path)
            except (OSError, ValueError, KeyError):  # of a mode that the format does not have
                path.unlink(missing_ok=True)
            else:
                written.append(str(path))
    assert len(written) > 20
    assert list_images(tmp_path) == sorted(written)
