"""nds_plugin/datasets/openimages.py, on files in the published form that the tests write."""

from __future__ import annotations

import base64
import hashlib
import logging
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from as_user import ROOT, cut, full_disk
from openimages_trees import BY, CLASSES, CORNERS, FLAGS, Tree, some_images
from PIL import Image, ImageOps
from pycocotools import mask as mask_util

from nds_plugin.datasets.image_headers import read_headers
from nds_plugin.datasets.openimages import OPENIMAGES, openimages_hierarchy, openimages_split
from nds_plugin.datasets.openimages_csv import read_classes
from nds_plugin.datasets.openimages_hierarchy import read_hierarchy
from nds_plugin.datasets.openimages_png import MaskJob, run_lengths
from nds_plugin.datasets.openimages_read import turn_corners
from nds_plugin.datasets.public import Split
from nds_plugin.datasets.seen_files import SeenFiles
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError
from nds_plugin.images import load_image, read_header
from nds_plugin.store import AnnotationStore, open_or_build, rle, schema
from nds_plugin.store.records import RecordDecoder

TRAIN = openimages_split("train")
MASKS = openimages_split("train", masks=True)
XYWH_ABS = 1
BITS = dict(zip(FLAGS, (schema.OCCLUDED, schema.TRUNCATED, schema.GROUP_OF, schema.DEPICTION, schema.INSIDE)))


def build(root: Path, split: Split = TRAIN) -> AnnotationStore:
    return open_or_build(split.spec(root))


def records(root: Path, split: Split = TRAIN) -> dict[str, dict[str, Any]]:
    store = build(root, split)
    decode = RecordDecoder(store, str(split.image_root(root)), XYWH_ABS, lambda path: read_header(path).shown)
    found = [decode(i) for i in range(len(store))]
    assert [record["image_id"] for record in found] == sorted(record["image_id"] for record in found)
    return {record["image_id"]: record for record in found}


def flags(store: AnnotationStore) -> list[list[int]]:
    """Flags of the annotations of each image."""
    found = []
    for number in range(store.num_batches):
        objects = store.objects(number)
        values = objects.columns["flags"].tolist()
        found += [values[a:b] for a, b in zip(objects.starts[:-1], objects.starts[1:])]
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_box_is_that_of_the_published_rows(tmp_path: Path, split: str) -> None:
    tree = some_images(split)
    tree.write(tmp_path)
    found = records(tmp_path, openimages_split(split))
    assert set(found) == set(tree.sides)
    names = list(CLASSES)
    for image_id, (width, height) in tree.sides.items():
        record = found[image_id]
        assert record["file_name"] == str(tmp_path / "openimages" / split / f"{image_id}.jpg")
        if tree.orientation[image_id] != 1:
            continue  # see below
        assert (record["width"], record["height"]) == (width, height)
        rows = [row for row in tree.boxes if row["ImageID"] == image_id and row["XMin"] != row["XMax"]]
        assert len(record["annotations"]) == len(rows)
        for row, annotation in zip(rows, record["annotations"]):
            x0, x1, y0, y1 = (float(row[name]) for name in CORNERS)
            expected = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            assert annotation["bbox"] == pytest.approx(expected, abs=1e-9)
            assert annotation["category_id"] == names.index(row["LabelName"])
            assert annotation["iscrowd"] == row["IsGroupOf"]
            assert annotation["bbox_mode"] == XYWH_ABS


def test_links_licences_authors_checksums_and_flags_are_kept(tmp_path: Path) -> None:
    tree = some_images()
    tree.write(tmp_path)
    store = build(tmp_path)
    rows = sorted(tree.images, key=lambda row: row["ImageID"])
    assert store.text_column("url").to_pylist() == [row["OriginalURL"] for row in rows]
    assert store.text_column("author").to_pylist() == [row["Author"] for row in rows]
    assert set(store.text_column("license").to_pylist()) == {BY}
    for row, checksum in zip(rows, store.text_column("checksum").to_pylist()):
        digest = base64.b64decode(row["OriginalMD5"])
        assert checksum == (f"md5:{digest.hex()}" if digest else "")
    assert hashlib.md5(rows[0]["ImageID"].encode()).hexdigest() in store.text_column("checksum")[0].as_py()
    for row, values in zip(rows, flags(store)):
        boxes = [b for b in tree.boxes if b["ImageID"] == row["ImageID"] and b["XMin"] != b["XMax"]]
        assert values == [sum(bit for name, bit in BITS.items() if box[name] == 1) for box in boxes]
    assert store.classes == list(CLASSES.values())
    assert store.category_ids == list(range(1, len(CLASSES) + 1))


def test_it_is_a_source_with_links_and_main_classes(tmp_path: Path) -> None:
    some_images().write(tmp_path)
    index = index_store(build(tmp_path), TRAIN.image_root(tmp_path), TRAIN.name)
    first = index[0]
    assert (first.image_id, first.width, first.height) == ("0a1b2c3d4e5f6071", 60, 40)
    assert (first.url, first.license) == ("https://farm1.staticflickr.com/0a1b2c3d4e5f6071_o.jpg", BY)
    assert first.checksum.startswith("md5:")
    assert index.classes[first.label] == "Person"  # the group is a crowd and does not count
    assert index[len(index) - 1].label == list(CLASSES).index("/m/01yrx")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_lie_on_their_objects_however_the_file_is_turned(
    tmp_path: Path, orientation: int
) -> None:
    tree = Tree()
    tree.add_image("1" * 16, (40, 24), orientation)
    corners = (0.25, 0.5, 0.125, 0.875)
    tree.add_box("1" * 16, "/m/01yrx", corners)
    pixels = np.zeros((24, 40), dtype=bool)
    pixels[3:21, 10:20] = True
    tree.add_mask("1" * 16, "/m/01yrx", corners, pixels)
    tree.write(tmp_path)
    for split in (TRAIN, MASKS):
        record = records(tmp_path, split)["1" * 16]
        shown = np.asarray(load_image(record["file_name"]).convert("L")) > 127
        assert shown.shape == (record["height"], record["width"])
        (annotation,) = record["annotations"]
        x, y, w, h = (round(value) for value in annotation["bbox"])
        assert shown[y : y + h, x : x + w].all()
        assert shown.sum() == w * h
        if split is MASKS:
            assert np.array_equal(mask_util.decode(annotation["segmentation"]), shown)


def test_turning_corners_is_what_turning_pixels_is() -> None:
    picture = np.zeros((8, 16), np.uint8)
    picture[1:3, 4:12] = 255
    corners = np.array([[4 / 16, 12 / 16, 1 / 8, 3 / 8]])
    for orientation in range(1, 9):
        image = Image.fromarray(picture)
        image.getexif()[0x0112] = orientation
        shown = np.asarray(ImageOps.exif_transpose(image)) > 0
        ((x0, x1, y0, y1),) = turn_corners(corners, np.array([orientation], np.int8))
        height, width = shown.shape
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        assert (x0 * width, x1 * width) == (columns[0], columns[-1] + 1)
        assert (y0 * height, y1 * height) == (rows[0], rows[-1] + 1)


def test_masks_are_those_of_the_png_files_at_the_image_s_size(tmp_path: Path) -> None:
    tree = some_images()
    tree.write(tmp_path)
    found = records(tmp_path, MASKS)
    assert set(found) == {row["ImageID"] for row in tree.masks}
    for image_id, record in found.items():
        rows = sorted(
            (row for row in tree.masks if row["ImageID"] == image_id), key=lambda row: row["MaskPath"]
        )
        assert len(record["annotations"]) == len(rows)
        for row, annotation in zip(rows, record["annotations"]):
            assert annotation["category_id"] == list(CLASSES).index(row["LabelName"])
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            assert mask.shape == (record["height"], record["width"])
            pixels = tree.pixels[row["MaskPath"]]
            if tree.orientation[image_id] == 1:
                size = (record["width"], record["height"])
                expected = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
                assert np.array_equal(mask, np.asarray(expected))
                x0, x1 = (float(row[f"Box{name}"]) * record["width"] for name in CORNERS[:2])
                assert annotation["bbox"][0] == pytest.approx(x0)
                assert annotation["bbox"][2] == pytest.approx(x1 - x0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_mask_is_all_pixels_that_are_not_black_whatever_the_png_s_kind(tmp_path: Path, mode: str) -> None:
    mask = np.random.Generator(np.random.PCG64(2)).random((9, 14)) < 0.3
    grey = Image.fromarray(mask.astype(np.uint8) * 3)  # far from white
    if mode == "I;16":
        grey = Image.fromarray(mask.astype(np.uint16) * 300)
    image = Image.fromarray(mask) if mode == "1" else grey if grey.mode == mode else grey.convert(mode)
    image.save(tmp_path / "mask.png")
    size, upright = np.zeros((1, 2), np.int32), np.ones(1, np.int8)
    table = run_lengths(MaskJob((tmp_path,), pa.array(["mask.png"]), size, upright))
    assert np.array_equal(rle.decode(table.column("rle")[0].as_py(), (9, 14)), mask)
    assert (table.column("height")[0].as_py(), table.column("width")[0].as_py()) == (9, 14)


def test_masks_have_the_flags_of_their_boxes(tmp_path: Path) -> None:
    tree = some_images()
    tree.write(tmp_path)
    by_row = {
        (row["ImageID"], row["LabelName"]): sum(bit for name, bit in BITS.items() if row[name] == 1)
        for row in reversed(tree.boxes)
    }
    rows = sorted(tree.masks, key=lambda row: row["MaskPath"])
    found = [value for values in flags(build(tmp_path, MASKS)) for value in values]
    assert found == [by_row[row["ImageID"], row["LabelName"]] for row in rows]
    assert any(found)


def test_a_mask_without_a_box_is_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = some_images()
    tree.add_mask("f1c2d3e4f5061728", "/m/01yrx", (0.6, 1.0, 0.0, 0.5), np.ones((30, 40), bool))
    tree.write(tmp_path)
    assert build(tmp_path, MASKS).num_annotations == 5
    assert "1 of 5 masks are of no box in oidv6-train-annotations-bbox.csv" in caplog.text


@pytest.mark.parametrize("place", ["train-masks-0", "train", "train/0", "0", "0A", ""])
def test_unpacked_masks_are_found_wherever_the_zip_files_were_unpacked(tmp_path: Path, place: str) -> None:
    tree = some_images()
    folder = tree.write(tmp_path, zips=False) / "masks"
    before = records(tmp_path, MASKS)
    for path in list(folder.glob("*/*.png")):
        target = {"train-masks-0": f"train-masks-{path.name[0]}", "train/0": f"train/{path.name[0]}"}
        target |= {"0": path.name[0], "0A": path.name[0].upper()}
        new = folder / target.get(place, place) / path.name
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    assert records(tmp_path, MASKS) == before


def test_masks_of_other_classes_than_the_list_are_left_out(tmp_path: Path) -> None:
    folder = some_images().write(tmp_path)
    assert build(tmp_path, MASKS).num_annotations == 4
    (folder / "annotations" / "classes-segmentation.txt").write_text("/m/01yrx\n/m/04yx4\n/m/0jbk\n")
    store = build(tmp_path, MASKS)
    assert store.classes == ["Man", "Animal", "Cat"]
    assert store.num_annotations == 3
    path = folder / "annotations" / "challenge-2019-classes-description-segmentable.csv"
    path.write_text("/m/01yrx,Cat\n")
    assert build(tmp_path, MASKS).classes == ["Cat"]


def test_boxes_without_masks_are_added_where_they_are_wanted(tmp_path: Path) -> None:
    tree = some_images()
    tree.write(tmp_path)
    found = records(tmp_path, openimages_split("train", masks=True, unmasked=True))
    with_masks = records(tmp_path, MASKS)
    assert set(found) == set(with_masks)
    annotations = found["0a1b2c3d4e5f6071"]["annotations"]
    assert [a for a in annotations if "segmentation" in a] == with_masks["0a1b2c3d4e5f6071"]["annotations"]
    (group,) = [a for a in annotations if "segmentation" not in a]
    assert (group["iscrowd"], group["bbox"]) == (1, [0, 20, 60, 20])


def test_images_need_not_be_there(tmp_path: Path) -> None:
    tree = some_images()
    folder = tree.write(tmp_path, images=False)
    store = build(tmp_path)
    assert not store.column("width").any()
    tree.write_images(folder / "later")
    before = AnnotationStore(store.path)
    (folder / "later").rename(folder / "train")
    decode = RecordDecoder(before, str(folder), XYWH_ABS, lambda path: read_header(path).shown)
    size = decode(0)["width"], decode(0)["height"]
    assert size == (60, 40)
    assert decode(0)["annotations"][0]["bbox"] == pytest.approx([6, 8, 24, 24])
    assert build(tmp_path).column("width").all()  # made again: now the sizes are known


def test_masks_keep_their_own_size_until_their_image_is_there(tmp_path: Path) -> None:
    tree = some_images()
    folder = tree.write(tmp_path, images=False)
    store = build(tmp_path, MASKS)
    tree.write_images(folder / "train")
    decode = RecordDecoder(store, str(folder), XYWH_ABS, lambda path: read_header(path).shown)
    known = records(tmp_path, MASKS)
    for record in map(decode, range(len(store))):
        if tree.orientation[record["image_id"]] == 1:  # whether a file is turned is not known without it
            assert record == known[record["image_id"]]


def test_images_may_lie_as_the_packed_files_unpack(tmp_path: Path) -> None:
    folder = some_images().write(tmp_path)
    for path in list((folder / "train").iterdir()):
        (folder / f"train_{path.name[0]}").mkdir(exist_ok=True)
        path.rename(folder / f"train_{path.name[0]}" / path.name)
    (folder / "train").rmdir()
    for record in records(tmp_path).values():
        assert load_image(record["file_name"]).size == (record["width"], record["height"])


def test_images_that_are_missing_or_broken_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = some_images().write(tmp_path)
    (folder / "train" / "f1c2d3e4f5061728.jpg").unlink()
    (folder / "train" / "70aabbccddeeff00.jpg").write_bytes(b"")
    store = build(tmp_path)
    assert (store.column("width") == 0).tolist() == [False, False, True, False, True]
    assert "1 of 5 image files are not there (first: train/f1c2d3e4f5061728.jpg)" in caplog.text
    assert "1 of 5 image files are not readable (first: train/70aabbccddeeff00.jpg)" in caplog.text


@pytest.mark.parametrize("split", [TRAIN, MASKS], ids=["boxes", "masks"])
def test_images_that_come_later_are_noticed_and_turned(tmp_path: Path, split: Split) -> None:
    tree = some_images()
    folder = tree.write(tmp_path)
    whole = records(tmp_path, split)
    late = folder / "train" / "70aabbccddeeff01.jpg"  # which is turned
    late.rename(tmp_path / "late.jpg")
    store = split.spec(tmp_path).path
    assert build(tmp_path, split).column("width").tolist().count(0) == 1
    stamp = store.stat().st_mtime_ns
    (folder / "train" / "stray.txt").write_text("not of the dataset")
    build(tmp_path, split)
    assert store.stat().st_mtime_ns == stamp
    (tmp_path / "late.jpg").rename(late)
    assert records(tmp_path, split) == whole


def test_unpacked_masks_that_were_written_anew_are_noticed(tmp_path: Path) -> None:
    tree = some_images()
    folder = tree.write(tmp_path, zips=False)
    store = build(tmp_path, MASKS).path
    stamp = store.stat().st_mtime_ns
    (folder / "masks" / "train-masks-0" / "stray.png").write_bytes(b"")
    build(tmp_path, MASKS)
    assert store.stat().st_mtime_ns == stamp
    name = next(row["MaskPath"] for row in tree.masks if row["LabelName"] == "/m/01yrx")
    tree.pixels[name] = ~tree.pixels[name]
    tree.write_masks(folder / "masks", zips=False)
    (cat,) = records(tmp_path, MASKS)[name[:16]]["annotations"]
    assert np.array_equal(mask_util.decode(cat["segmentation"]), tree.pixels[name])


def test_headers_are_read_the_same_by_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = some_images().write(tmp_path)
    there = [f"train/{path.name}" for path in sorted((folder / "train").iterdir())]
    names = pa.array([name for i in range(2400) for name in (f"train/{i:016x}.jpg", *there)])
    found = []
    for processes in ("1", "3"):
        monkeypatch.setenv("NDS_PROCESSES", processes)
        headers = read_headers(iter([names]), folder, tmp_path / processes, "test", SeenFiles(folder))
        found.append([headers.width.tolist(), headers.height.tolist(), headers.orientation.tolist()])
    assert found[0] == found[1]
    assert found[0][0][:6] == [0, 60, 30, 20, 16, 40]
    assert len(list((tmp_path / "3").iterdir())) == 3  # parts of 5000


def test_boxes_can_be_given_to_the_classes_above_theirs(tmp_path: Path) -> None:
    tree = some_images()
    tree.add_box("f1c2d3e4f5061728", "/m/0bt9lr", (0.1, 0.2, 0.1, 0.2), IsGroupOf=1)
    tree.write(tmp_path)
    plain = records(tmp_path)
    names = list(CLASSES.values())
    above = {"Man": ["Person"], "Cat": ["Animal"], "Dog": ["Animal"], "Person": [], "Flower": []}
    for image_id, record in records(tmp_path, openimages_split("train", expand=True)).items():
        expected = []
        for annotation in plain[image_id]["annotations"]:
            name = names[annotation["category_id"]]
            for kind in [name, *above[name]]:
                expected.append({**annotation, "category_id": names.index(kind)})
        assert record["annotations"] == expected
    masks = build(tmp_path, openimages_split("train", masks=True, expand=True))
    assert masks.num_annotations == 7  # a person, a man and two cats
    assert masks.class_counts().tolist() == [2, 1, 2, 2, 0, 0]


def test_the_hierarchy_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="bbox_labels_600_hierarchy.json is not there"):
        openimages_hierarchy(tmp_path)
    some_images().write(tmp_path)
    hierarchy = openimages_hierarchy(tmp_path)
    assert hierarchy.ancestors("/m/01yrx") == ["/m/068hy", "/m/0jbk"]
    assert hierarchy.ancestors("/m/0bt9lr") == ["/m/068hy", "/m/0jbk"]
    assert hierarchy.ancestors("/m/0c9ph5") == []  # a part is no kind
    assert hierarchy.children("/m/0jbk") == ["/m/068hy", "/m/0bt9lr"]
    with pytest.raises(NDSError, match="has no '/m/none'"):
        hierarchy.ancestors("/m/none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not complete JSON"),
        ("[]", "is no class hierarchy of OpenImages"),
        ('{"LabelName": "a", "Subcategory": [{"LabelName": "a"}]}', "is no class hierarchy of OpenImages"),
    ],
)
def test_a_broken_hierarchy_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hierarchy.json"
    path.write_text(text)
    with pytest.raises(NDSError, match=message):
        read_hierarchy(path)


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
            *(MASKS, "of no image that the file lists.*'1{16}'"),
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
    with pytest.raises(
        NDSError, match=r"the mask 0a1b\w+.png is no whole PNG \(cannot identify image file\)"
    ):
        build(tmp_path, MASKS)


SLOW = """
import sys, time
from pathlib import Path
from nds_plugin.datasets import openimages_mask_read as module
from nds_plugin.datasets.openimages import openimages_split
from nds_plugin.store import open_or_build

whole = module.run_lengths
def run_lengths(job):
    if job.names[0].as_py() > "7":
        time.sleep(60)
    return whole(job)
module.run_lengths = run_lengths
open_or_build(openimages_split("train", masks=True).spec(Path(sys.argv[1])))
"""


def test_a_build_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_images().write(tmp_path)
    path = MASKS.spec(tmp_path).path
    parts = path.with_name(f".{path.name}.parts")
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while len(list(parts.glob("*.arrow"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(list(parts.glob("*.arrow"))) == 2  # the headers, the masks of one archive
    assert not path.exists()
    from nds_plugin.datasets import openimages_mask_read as module

    done = []

    def run_lengths(job: Any) -> Any:
        done.append(job.names[0].as_py())
        return whole(job)

    whole = module.run_lengths
    monkeypatch.setattr(module, "run_lengths", run_lengths)
    monkeypatch.setenv("NDS_PROCESSES", "1")
    assert build(tmp_path, MASKS).num_annotations == 4
    assert [name[0] for name in done] == ["7"]
    assert not parts.exists()


def test_a_full_disk_is_one_line_and_leaves_no_store(tmp_path: Path) -> None:
    some_images().write(tmp_path)
    with full_disk(100), pytest.raises(NDSError, match="disk full while writing"):
        build(tmp_path)
    assert not TRAIN.spec(tmp_path).path.exists()
    assert len(build(tmp_path)) == 5


def test_masks_at_another_size_take_the_nearest_pixel() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    for old, new in (
        ((60, 90), (40, 60)),
        ((7, 5), (13, 11)),
        ((16, 12), (16, 12)),
        ((1068, 1600), (684, 1024)),
    ):
        mask = rng.random(old) < 0.5
        expected = Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST)
        assert np.array_equal(rle.nearest(mask, new), np.asarray(expected))
        assert np.array_equal(rle.decode(rle.resized(rle.encode(mask), old, new), new), np.asarray(expected))


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(NDSError, match="unknown split of OpenImages 'val'. Known: test, train, validation"):
        openimages_split("val")
    with pytest.raises(NDSError, match="unmasked boxes are an addition to masks"):
        openimages_split("train", unmasked=True)
    assert [split.name for split in OPENIMAGES.splits] == [
        f"openimages_v6_{split}{kind}" for kind in ("", "_masks") for split in ("train", "validation", "test")
    ]


def test_lists_of_the_benchmark_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from openimages_shape import write_openimages
    finally:
        sys.path.pop(0)
    write_openimages(tmp_path, images=500)
    with caplog.at_level(logging.WARNING):
        store = build(tmp_path)
    assert (len(store), store.num_annotations) == (500, 4191)
    assert not caplog.records


def test_its_splits_are_detectron2_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from nds_plugin.d2.known_datasets import register_split
    from nds_plugin.d2.registration import index_dataset, register_all

    some_images("validation").write(tmp_path)
    expanded = openimages_split("validation", expand=True)
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_all()
        register_split(expanded)
    try:
        dicts = DatasetCatalog.get("openimages_v6_validation_masks")
        assert len(dicts) == 3
        assert dicts[0]["annotations"][0]["segmentation"]["size"] == [40, 60]
        assert MetadataCatalog.get("openimages_v6_validation_masks").thing_classes == list(CLASSES.values())
        boxes, copies = (
            sum(len(record["annotations"]) for record in DatasetCatalog.get(name))
            for name in ("openimages_v6_validation", expanded.name)
        )
        assert (boxes, copies) == (6, 10)
        assert len(index_dataset("openimages_v6_validation")) == 5
    finally:
        register_all()
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.remove(expanded.name)
