from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from store_objects import objects_of
from voc_trees import Picture, Thing, pictures, write_masks, write_voc

from nds_plugin.datasets.voc import split as voc
from nds_plugin.datasets.voc.split import CLASSES, VOC2007, voc_root
from nds_plugin.datasets.voc.xml import read_voc_xml
from nds_plugin.errors import NDSError
from nds_plugin.store import AnnotationStore, open_or_build
from nds_plugin.store.records import RecordDecoder
from nds_plugin.store.schema import DIFFICULT, TRUNCATED

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _open(root: Path, split: str = "test") -> AnnotationStore:
    return open_or_build(voc.spec(split, root))


def _no_size(file_name: str) -> tuple[int, int]:
    raise AssertionError(f"the size of {file_name} is known")


def _records(root: Path, split: str = "test") -> list[dict[str, Any]]:
    store = _open(root, split)
    decode = RecordDecoder(store, str(voc_root(root)), "XYWH", _no_size)
    return [decode(i) for i in range(len(store))]


def _corners(box: list[float]) -> tuple[float, ...]:
    """x, y, width, height as the XML's corners."""
    x, y, width, height = box
    return (x + 1, y + 1, x + width, y + height)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc")
    write_voc(root / "VOC2007", pictures())
    return root


def test_records_are_those_of_detectron2s_loader(tree: Path) -> None:
    pascal = pytest.importorskip("detectron2.data.datasets.pascal_voc")
    assert tuple(pascal.CLASS_NAMES) == CLASSES
    theirs = pascal.load_voc_instances(str(tree / "VOC2007"), "test", CLASSES)
    ours = {record["image_id"]: record for record in _records(tree)}
    assert len(ours) == len(theirs) == 8
    for expected in theirs:
        record = ours[expected["image_id"]]
        assert {k: record[k] for k in ("file_name", "width", "height")} == {
            k: expected[k] for k in ("file_name", "width", "height")
        }
        boxes = [
            (
                a["category_id"],
                [a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]],
            )
            for a in record["annotations"]
        ]
        assert boxes == [
            (a["category_id"], a["bbox"])
            for a in expected["annotations"]
            if a["bbox"][2] > a["bbox"][0]  # ours leaves out what has no area
        ]


def test_counts_and_boxes_are_those_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", pictures())
    theirs = datasets.VOCDetection(str(tmp_path), year="2007", image_set="trainval")
    ours = {record["image_id"]: record for record in _records(tmp_path, "trainval")}
    assert len(theirs) == len(ours) == 8
    assert VOC2007.splits[2].quick_count is not None
    assert VOC2007.splits[2].quick_count(tmp_path)[0] == 8
    for i in range(len(theirs)):
        annotation = theirs[i][1]["annotation"]
        objects = (
            [o for o in annotation["object"] if o["bndbox"]["xmax"] != "4"] if "object" in annotation else []
        )
        record = ours[annotation["filename"].removesuffix(".jpg")]
        expected = [
            (o["name"], tuple(float(o["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax")))
            for o in objects
        ]
        assert [(CLASSES[a["category_id"]], _corners(a["bbox"])) for a in record["annotations"]] == expected


def test_flags_of_difficult_and_truncated_objects_are_kept_in_training_and_store(tree: Path) -> None:
    store = _open(tree)
    ids = store.text_column("image_id").to_pylist()
    owners = np.repeat(ids, store.object_counts)
    flags = objects_of(store).flags
    assert flags[owners == "000005"].tolist() == [0, DIFFICULT, TRUNCATED]
    assert flags[owners == "größe_猫"].tolist() == [DIFFICULT]
    assert not objects_of(store).iscrowd.any()


def test_where_the_images_come_from_is_in_the_store(tree: Path) -> None:
    store = _open(tree)
    authors = dict(zip(store.text_column("image_id").to_pylist(), store.text_column("author").to_pylist()))
    assert authors["000005"] == "Some Body"
    assert authors["000007"] == "flick"  # VOC writes "?" for a name that is not known
    assert set(store.text_column("url").to_pylist()) == {"https://www.flickr.com/photo.gne?id=325991873"}


def test_masks_are_the_pixels_of_the_object_without_the_void(tree: Path) -> None:
    compared = 0
    for record in _records(tree):
        path = tree / "VOC2007" / "SegmentationObject" / f"{record['image_id']}.png"
        masks = [a.get("segmentation") for a in record["annotations"]]
        if not path.exists():
            assert masks == [None] * len(masks)
            continue
        labels = np.asarray(Image.open(path))
        assert 255 in labels
        for k, mask in enumerate(masks, start=1):
            assert (mask_util.decode(mask).astype(bool) == (labels == k)).all()
            compared += 1
    assert compared == 4
    store = _open(tree)
    areas = objects_of(store).area
    assert np.isfinite(areas).sum() == 4
    assert areas[np.isfinite(areas)].min() > 0


def test_a_mask_that_is_not_of_its_object_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swapped = Picture("000001", [Thing("cat", (2, 2, 20, 20)), Thing("cat", (40, 20, 58, 38))])
    other = Picture("000002", [Thing("cat", (2, 2, 20, 20)), Thing("dog", (30, 2, 58, 38))])
    many = Picture("000003", [Thing("cat", (2, 2, 20, 20)), Thing("dog", (30, 2, 58, 38))])
    folder = write_voc(tmp_path / "VOC2007", [swapped, other, many])
    write_masks(folder, swapped, order=[2, 1])
    write_masks(folder, other, order=[2, 1])
    write_masks(folder, many, order=[1, 3])
    with caplog.at_level(logging.WARNING):
        records = _records(tmp_path)
    has_mask = [["segmentation" in a for a in record["annotations"]] for record in records]
    assert has_mask == [[False, False], [False, False], [True, False]]
    assert "5 masks are of no object and left out (first: 000001.png, value 1: its box" in caplog.text


def test_images_of_all_kinds_reach_the_model(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("detectron2")
    from nds_plugin.d2 import NDSDatasetMapper, register_all
    from nds_plugin.d2.data.registration import dataset_dicts, index_dataset

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))
    register_all()
    mapper = NDSDatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    for record in dataset_dicts("nds_voc_2007_test"):
        example = mapper(record)
        assert tuple(example["image"].shape) == (3, 40, 60), record["file_name"]
        assert len(example["instances"]) == len(record["annotations"])
    index = index_dataset("nds_voc_2007_test")
    assert [index.classes[i] if i >= 0 else None for i in index.column("label").tolist()] == [
        *("chair", "car", None, "cat", "bicycle", "horse", "cat", "tvmonitor")
    ]


def test_a_changed_annotation_is_seen_and_an_unchanged_store_stays(tmp_path: Path) -> None:
    content = pictures()
    folder = write_voc(tmp_path / "VOC2007", content)
    first = _open(tmp_path).path.stat()
    assert _open(tmp_path).path.stat().st_mtime_ns == first.st_mtime_ns
    assert _open(tmp_path).path == tmp_path / "nds_stores" / "nds_voc_2007_test.arrow"
    xml = folder / "Annotations" / "000007.xml"
    xml.write_text(xml.read_text().replace("<xmin>1</xmin>", "<xmin>21</xmin>"))
    record = next(r for r in _records(tmp_path) if r["image_id"] == "000007")
    assert record["annotations"][0]["bbox"] == [20.0, 0.0, 40.0, 40.0]


def test_boxes_that_leave_their_image_are_clipped_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_voc(tmp_path / "VOC2007", [Picture("000001", [Thing("cat", (0, 5, 70, 50))])])
    (record,) = _records(tmp_path)
    assert record["annotations"][0]["bbox"] == [0.0, 4.0, 60.0, 36.0]
    assert "1 (first: annotations[0] of image '000001'" in caplog.text


def _break(folder: Path, what: str) -> None:
    xml = folder / "Annotations" / "000007.xml"
    png = folder / "SegmentationObject" / "000007.png"
    lists = folder / "ImageSets" / "Main" / "test.txt"
    if what == "cut xml":
        xml.write_text(xml.read_text()[:400])
    elif what == "cut png":
        png.write_bytes(png.read_bytes()[:60])
    elif what == "no xml":
        xml.unlink()
    elif what == "twice":
        lists.write_text(lists.read_text() + "000007\n")
    elif what == "no list":
        lists.unlink()
    elif what == "empty list":
        lists.write_text("\n")
    elif what == "bytes":
        lists.write_bytes(b"\xff\xfe0\n")
    elif what == "size":
        Image.fromarray(np.zeros((9, 8), np.uint8)).convert("P").save(png)
    elif what == "colours":
        Image.new("RGB", (60, 40)).save(png)
    elif what == "no class png":
        (folder / "SegmentationClass" / "000007.png").unlink()
    else:
        old, new = what.split(" -> ")
        assert old in xml.read_text()
        xml.write_text(xml.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut xml", r"000007\.xml is not complete XML \(.*get it again"),
        ("cut png", r"SegmentationObject/000007\.png: the image is cut short"),
        ("no xml", r"1 of the 8 images of \S*test\.txt have no annotation, first \S*000007\.xml"),
        ("twice", r"test\.txt lists 1 images twice, first 000007"),
        ("no list", r"test\.txt is not there. Expected below .*VOC2007/ or VOCdevkit/VOC2007/"),
        ("empty list", r"test\.txt lists no images"),
        ("bytes", r"test\.txt cannot be read as text"),
        ("size", r"000007\.png is 8 x 9 pixels, expected 60 x 40 as its image"),
        ("colours", r"000007\.png must have one channel of numbers of objects, it is RGB"),
        ("no class png", r"1 images of \S*SegmentationObject have no counterpart in SegmentationClass"),
        ("<name>car< -> <name>kart<", r"unknown class in \S*000007\.xml: 'kart'"),
        ("<name>car< -> <name> <", r"000007\.xml: an object has no <name>"),
        ("<ymin>1</ymin> -> ", r"000007\.xml: an object has no <bndbox/ymin>"),
        ("<ymin>1< -> <ymin>one<", r"<bndbox/ymin> must be a number, got 'one'"),
        ("<ymin>1< -> <ymin>nan<", r"<bndbox/ymin> must be a number, got 'nan'"),
        ("<width>60< -> <width>-4<", r"<size/width> must be 0 \(not known\) to 1000000 pixels, got -4"),
        ("annotation> -> html>", r"expected <annotation>, got <html>"),
    ],
)
def test_broken_trees_are_told_in_one_line_and_leave_no_store(
    tmp_path: Path, what: str, message: str
) -> None:
    folder = write_voc(tmp_path / "VOC2007", pictures())
    _break(folder, what)
    with pytest.raises(NDSError, match=message) as error:
        _open(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_missing_tree_shows_the_expected_one(tmp_path: Path) -> None:
    with pytest.raises(
        NDSError, match=r"ImageSets/Main/train\.txt is not there.*JPEGImages/.*_06-Nov-2007\.tar"
    ):
        _open(tmp_path, "train")
    write_voc(tmp_path / "VOC2007", pictures(), train=["none"])
    with pytest.raises(NDSError, match=r"Annotations/none\.xml is not there. Expected"):
        _open(tmp_path, "train")


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<annotation><owner><name>&b;</name></owner></annotation>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "bomb.xml"
    path.write_bytes(BOMB.replace("?>", f' encoding="{encoding}"?>').encode(encoding))
    with pytest.raises(NDSError, match=r"bomb\.xml declares a document type \(annotation\)"):
        read_voc_xml(path)


def test_a_size_that_the_file_does_not_give_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<annotation><object><name>cat</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>9</xmax>"
                    "<ymax>8</ymax></bndbox></object></annotation>")  # fmt: skip
    image = read_voc_xml(path)
    assert (image.width, image.height, image.url, image.author) == (0, 0, "", "")
    assert image.objects[0].bbox == (0.5, 1.0, 8.5, 7.0)
    assert image.objects[0].flags == 0
