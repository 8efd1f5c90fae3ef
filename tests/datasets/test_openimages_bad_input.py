"""OpenImages: lists, archives and rows that are missing, cut short, or cannot be."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_user import cut
from openimages_builds import MASKS, TRAIN, build
from openimages_trees import Tree, some_images

from nds_plugin.datasets.openimages.csv import read_classes
from nds_plugin.datasets.public import Split
from nds_plugin.errors import NDSError


def test_the_list_of_classes_may_have_a_heading(tmp_path: Path) -> None:
    path = tmp_path / "oidv7-class-descriptions-boxable.csv"
    path.write_text("LabelName,DisplayName\n/m/011k07,Tortoise\n")
    assert read_classes(path).categories() == [(1, "Tortoise")]
    for text, message in (
        ("", "lists no classes"),
        ("/m/1\n", "line 1: expected 'LABEL,NAME', got '/m/1'"),
        ("/m/1,A\n/m/1,B\n", "1 classes occur more than once, first '/m/1'"),
    ):
        path.write_text(text)
        with pytest.raises(NDSError, match=message):
            read_classes(path)


LISTS = {
    "class-descriptions-boxable.csv": TRAIN,
    "train-images-boxable-with-rotation.csv": TRAIN,
    "oidv6-train-annotations-bbox.csv": TRAIN,
    "train-annotations-object-segmentation.csv": MASKS,
}


@pytest.mark.parametrize("name", LISTS)
def test_a_missing_list_is_named_with_the_tree_that_is_expected(tmp_path: Path, name: str) -> None:
    folder = some_images().write(tmp_path)
    (folder / "annotations" / name).unlink()
    with pytest.raises(NDSError, match=f"{name} is not there. Expected below .*openimages/; annotations/"):
        build(tmp_path, LISTS[name])


@pytest.mark.parametrize("name", list(LISTS)[1:])
def test_a_list_that_was_cut_short_or_is_another_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = some_images().write(tmp_path)
    path = folder / "annotations" / name
    whole = path.read_bytes()
    cut(path, len(whole.rstrip().rpartition(b",")[0]))
    for _ in range(2):
        with pytest.raises(NDSError, match=f"{name} is cut short or damaged .*: get it again"):
            build(tmp_path, LISTS[name])
        path.write_bytes(whole.replace(b"0.", b"\xff.") if "images" not in name else whole + b'"open')
    path.write_bytes(b"")
    with pytest.raises(NDSError, match=rf"{name} is empty \(0 bytes\)"):
        build(tmp_path, LISTS[name])
    path.write_bytes(b"id,url\n1,2\n")
    with pytest.raises(NDSError, match=f"{name} lacks the columns .*ImageID.*; it has id, url"):
        build(tmp_path, LISTS[name])
    assert not LISTS[name].spec(tmp_path).path.exists()


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        (
            lambda t: t.add_box("f" * 16, "/m/01yrx", (0, 1, 0, 1)),
            TRAIN,
            "of no image that the file lists.*'f{16}'",
        ),
        (
            lambda t: t.add_box("70aabbccddeeff00", "/m/x", (0, 1, 0, 1)),
            TRAIN,
            "1 boxes are of no class.*'/m/x'",
        ),
        (lambda t: t.images.append(t.images[0]), TRAIN, "occur more than once, first 'f1c2d3e4f5061728'"),
        (lambda t: t.images[2].update(OriginalMD5="abc"), TRAIN, "image '0a1b2c3d4e5f6072' is no MD5.*'abc'"),
        (
            lambda t: t.masks.append(t.masks[0]),
            MASKS,
            "1 masks occur more than once, first '0a1b2c3d4e5f6071_m04yx4",
        ),
        (lambda t: t.masks[0].update(LabelName="/m/x"), MASKS, "1 masks are of no class.*'/m/x'"),
        (lambda t: t.masks.clear(), MASKS, "is not there|lists no masks"),
        (
            lambda t: t.add_mask("1" * 16, "/m/01yrx", (0, 1, 0, 1), np.ones((2, 2), bool)),
            MASKS,
            r"object-segmentation\.csv has masks of 1 images that .*-with-rotation\.csv does not list, first '1{16}'",
        ),
    ],
)
def test_rows_that_cannot_be_are_refused(
    tmp_path: Path, change: Callable[[Tree], Any], split: Split, message: str
) -> None:
    tree = some_images()
    change(tree)
    tree.write(tmp_path)
    with pytest.raises(NDSError, match=message):
        build(tmp_path, split)
    assert not split.spec(tmp_path).path.exists()


@pytest.mark.parametrize("value", ["", "NA", "nan", "inf"])
@pytest.mark.parametrize(
    ("rows", "column", "split"),
    [("boxes", "YMax", TRAIN), ("boxes", "IsGroupOf", TRAIN), ("masks", "BoxXMin", MASKS)],
)
def test_a_number_that_is_none_is_refused(
    tmp_path: Path, rows: str, column: str, split: Split, value: str
) -> None:
    tree = some_images()
    getattr(tree, rows)[2][column] = value
    tree.write(tmp_path)
    what = "is cut short or damaged" if (column, value) == ("IsGroupOf", "inf") else f"{column}, first line 4"
    with pytest.raises(NDSError, match=what):
        build(tmp_path, split)


def test_a_heading_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    folder = some_images().write(tmp_path)
    path = folder / "annotations" / "oidv6-train-annotations-bbox.csv"
    path.write_text(path.read_text().replace("YMin", "XMin", 1))
    with pytest.raises(NDSError, match="has the column XMin more than once"):
        build(tmp_path)


def test_a_missing_archive_of_masks_is_named(tmp_path: Path) -> None:
    folder = some_images().write(tmp_path)
    (folder / "masks" / "train-masks-7.zip").rename(tmp_path / "away.zip")
    with pytest.raises(
        NDSError, match="none of the 1 masks of images that begin with '7' is in .*train-masks-7.zip"
    ):
        build(tmp_path, MASKS)
    for path in (folder / "masks").iterdir():
        path.unlink()
    (folder / "masks").rmdir()
    with pytest.raises(NDSError, match="train-masks-0.zip is not there. Expected below"):
        build(tmp_path, MASKS)
    (tmp_path / "away.zip").unlink()


def test_single_masks_that_are_missing_or_empty_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = some_images()
    gone = tree.add_mask("70aabbccddeeff00", "/m/0c9ph5", (0.1, 0.2, 0.1, 0.2), np.ones((4, 4), bool))
    tree.add_mask("70aabbccddeeff00", "/m/0c9ph5", (0.3, 0.4, 0.3, 0.4), np.zeros((4, 4), bool))
    del tree.pixels[gone]
    tree.write(tmp_path)
    assert build(tmp_path, MASKS).num_annotations == 4
    assert f"1 of 6 masks are not there (first: {gone}) and were left out" in caplog.text
    assert "1 of 6 masks have no pixel of their object (first: 70aabbccddeeff00_m0c9ph5" in caplog.text


def test_a_damaged_archive_or_mask_is_named(tmp_path: Path) -> None:
    tree = some_images()
    folder = tree.write(tmp_path)
    path = folder / "masks" / "train-masks-0.zip"
    whole = path.read_bytes()
    cut(path)
    with pytest.raises(NDSError, match=r"train-masks-0.zip is not a whole zip file .*get it again"):
        build(tmp_path, MASKS)
    place = whole.index(b"IDAT") + 12
    path.write_bytes(whole[:place] + bytes(4) + whole[place + 4 :])
    with pytest.raises(
        NDSError, match=r"train-masks-0.zip: the mask 0a1b\w+.png is no whole PNG \(Bad CRC-32"
    ):
        build(tmp_path, MASKS)
    with zipfile.ZipFile(path, "w") as archive:
        for name in tree.pixels:
            archive.writestr(name, b"no picture")
    with pytest.raises(NDSError, match=r"the mask 0a1b\w+.png is no whole PNG \(not an image"):
        build(tmp_path, MASKS)
