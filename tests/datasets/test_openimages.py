"""OpenImages: boxes, classes and images, on files in the published form that the tests write."""

from __future__ import annotations

import base64
import hashlib
import logging
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from as_user import ROOT, full_disk
from openimages_builds import BITS, MASKS, TRAIN, XYWH_ABS, build, flags, records
from openimages_trees import BY, CLASSES, CORNERS, Tree, some_images
from PIL import Image, ImageOps
from pycocotools import mask as mask_util

from nds_plugin.datasets.image_headers import read_headers
from nds_plugin.datasets.openimages.files import Files
from nds_plugin.datasets.openimages.hierarchy import read_hierarchy
from nds_plugin.datasets.openimages.read import turn_corners
from nds_plugin.datasets.openimages.split import OPENIMAGES, openimages_split
from nds_plugin.datasets.public import Split
from nds_plugin.datasets.seen_files import SeenFiles
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.images.reading import load_image, read_header
from nds_plugin.store import AnnotationStore
from nds_plugin.store.records import RecordDecoder


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


@pytest.mark.slow
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


@pytest.mark.slow
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
    some_images().write(tmp_path)
    path = Files(tmp_path, "train").hierarchy
    hierarchy = read_hierarchy(path)
    assert hierarchy.ancestors("/m/01yrx") == ["/m/068hy", "/m/0jbk"]
    assert hierarchy.ancestors("/m/0bt9lr") == ["/m/068hy", "/m/0jbk"]
    assert hierarchy.ancestors("/m/0c9ph5") == []  # a part is no kind
    with pytest.raises(NDSError, match="has no '/m/none'"):
        hierarchy.ancestors("/m/none")
    path.unlink()
    with pytest.raises(NDSError, match=r"bbox_labels_600_hierarchy\.json is not there"):
        openimages_split("train", expand=True).spec(tmp_path).inputs()


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


def test_a_full_disk_is_one_line_and_leaves_no_store(tmp_path: Path) -> None:
    some_images().write(tmp_path)
    with full_disk(100), pytest.raises(NDSError, match="disk full while writing"):
        build(tmp_path)
    assert not TRAIN.spec(tmp_path).path.exists()
    assert len(build(tmp_path)) == 5


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown split of OpenImages 'val'. Known: test, train, validation"
    ):
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

    from nds_plugin.d2.data.known_datasets import register_all, register_split
    from nds_plugin.d2.data.registration import index_dataset

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
