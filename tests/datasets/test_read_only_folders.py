"""Datasets in folders that cannot be written, beside stores that are out of date: new ones go to the user's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imagenet_trees import as_images, batches
from imagenet_trees import write_tree as write_imagenet
from openimages_builds import TRAIN as OPENIMAGES
from openimages_trees import some_images

from nds_plugin.datasets.imagenet.downsampled import DOWNSAMPLED_IMAGENET
from nds_plugin.datasets.preparing.checking import check_split
from nds_plugin.datasets.store_index import index_store
from nds_plugin.datasets.whole_images.image_classification import ImageClassification
from nds_plugin.images.reading import load_image
from nds_plugin.store import open_or_build

VAL_32 = next(split for split in DOWNSAMPLED_IMAGENET.splits if split.name == "downsampled_imagenet_32_val")


@pytest.fixture
def make_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """As ``chmod -w``, for root, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NDS_PROCESSES", "1")

    def make(folder: Path) -> None:
        for module in ("opening", "inputs"):
            monkeypatch.setattr(
                f"nds_plugin.store.{module}.can_write",
                lambda path: folder not in [Path(path), *Path(path).parents],
            )

    return make


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_openimages(tmp_path: Path, make_read_only: Callable[[Path], None]) -> None:
    root = tmp_path / "root"
    folder = some_images().write(root)
    open_or_build(OPENIMAGES.spec(root))
    os.utime(next((folder / "train").iterdir()), (1, 1))
    make_read_only(root)
    before = files(root)
    found = open_or_build(OPENIMAGES.spec(root))
    assert tmp_path / "cache" in found.path.parents
    stamp = found.path.stat()
    assert open_or_build(OPENIMAGES.spec(root)).path.stat() == stamp, "built twice"
    assert files(root) == before


def test_downsampled_imagenet(tmp_path: Path, make_read_only: Callable[[Path], None]) -> None:
    root = tmp_path / "root"
    write_imagenet(root)
    first = open_or_build(VAL_32.spec(root))
    (first.path.with_suffix("") / "val_data.npy").unlink()
    make_read_only(root)
    before = files(root)
    store = open_or_build(VAL_32.spec(root))
    expected = as_images(batches(32)["val_data"]["data"], 32)
    index = index_store(store, VAL_32.image_root(root), VAL_32.name)
    assert tmp_path / "cache" in Path(index[0].file_name).parents
    assert all(np.array_equal(load_image(row.file_name), image) for row, image in zip(index, expected))
    assert ImageClassification.of_split(VAL_32, root)[0][0] == index[0].file_name
    assert check_split(VAL_32, root).problem == ""
    assert files(root) == before
