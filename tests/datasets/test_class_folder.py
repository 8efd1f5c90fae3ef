"""A folder with a folder of images for each class, on the disk and in an object store."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest
from coco_files import write_image

from nds_plugin.datasets.class_folder import ClassFolder


@pytest.mark.parametrize("form", ["path", "file", "memory"])
def test_classes_are_the_folders_with_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    memory = f"memory://{uuid.uuid4().hex}"
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.jpg")
        with fsspec.open(f"{memory}/{name}/1.jpg", "wb") as file:
            file.write((tmp_path / name / "1.jpg").read_bytes())
    (tmp_path / "c").mkdir()
    folder = {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": memory}[form]
    assert ClassFolder("x", folder).classes() == ["a", "b"]
    assert ("no image in 1 of its folders" in caplog.text) == (form != "memory")


def ids(folder: Path, part: str) -> list[str]:
    return [str(name) for name in ClassFolder("x", str(folder), part=part).index().column("image_id")]


def test_a_damaged_file_moves_no_other_one_between_training_and_test(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(7):
            write_image(tmp_path / name / f"{number}.jpg")
    train, test = ids(tmp_path, "train"), ids(tmp_path, "test")
    assert test == ["a/2.jpg", "a/5.jpg", "b/2.jpg", "b/5.jpg"]
    assert sorted(train + test) == ids(tmp_path, "all")
    for broken in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / broken).write_bytes(b"no image")
    assert ids(tmp_path, "train") == [name for name in train if name != "a/1.jpg"]
    assert ids(tmp_path, "test") == [name for name in test if name != "b/2.jpg"]
    for part, classes, missing in (
        ("train", "*", ["a/1.jpg"]),
        ("test", "*", ["b/2.jpg"]),
        ("test", "a", []),
    ):
        assert list(ClassFolder("x", str(tmp_path), classes, part).unreadable()) == missing
