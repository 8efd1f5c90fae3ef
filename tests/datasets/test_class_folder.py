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
