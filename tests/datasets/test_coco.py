"""Reading a COCO file: what comes back, and the faults that are told."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import document, write_coco

from nds_plugin.datasets.coco import json_stream
from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.errors import NDSError
from nds_plugin.store.records import RecordDecoder


def records(path: Path) -> list[dict[str, Any]]:
    """The dicts of a COCO file's store."""
    store = open_coco(path)
    decode = RecordDecoder(store, "images", "XYWH", lambda name: (1, 1))
    return [decode(i) for i in range(len(store))]


def test_a_clean_file_comes_back_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = document(masks=True)
    read = records(write_coco(tmp_path, content))
    assert [record["image_id"] for record in read] == [3, 12, 20]
    for record in read:
        (image,) = [image for image in content["images"] if image["id"] == record["image_id"]]
        assert record["file_name"] == f"images/{image['file_name']}"
        assert (record["width"], record["height"]) == (image["width"], image["height"])
        own = [a for a in content["annotations"] if a["image_id"] == record["image_id"]]
        for got, given in zip(record["annotations"], own, strict=True):
            for key in ("bbox", "iscrowd", "segmentation"):
                assert got[key] == given[key]
            assert got["category_id"] == {2: 0, 5: 1}[given["category_id"]]
    assert not caplog.records


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_file_reads_the_same_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    content = {
        "a": [{"x": [1, -2.5e3, '\u00e9\u20ac \\ " ]']}, {}, 12345678901, None],
        "b": {"c": [True]},
        "d": [],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=block != 7, indent=indent), encoding="utf-8")
    monkeypatch.setattr(json_stream, "_BLOCK", block)
    read = list(json_stream.stream_object(path, ("a", "d"), chunk=3))
    assert read == [("a", content["a"][:3]), ("a", content["a"][3:]), ("b", content["b"]), ("d", [])]


@pytest.mark.parametrize("damage", [b"}", b"{", b",", b"@", b'"'])
def test_a_damaged_byte_is_an_error_and_never_other_data(tmp_path: Path, damage: bytes) -> None:
    raw = json.dumps(document(masks=True)).encode()
    path = tmp_path / "x.json"
    for position in range(0, len(raw), 97):
        path.write_bytes(raw[:position] + damage + raw[position:])
        try:
            found = list(json_stream.stream_object(path, ("images", "annotations"), 100))
        except NDSError as error:
            assert "\n" not in str(error)
        else:  # inside of a text it is only another letter
            assert json.loads(path.read_bytes()).keys() == {key for key, _ in found}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match=r"annotation file not found: .*nothing\.json"):
        open_coco(tmp_path / "nothing.json")
    with pytest.raises(NDSError, match=r"cannot read the annotation file .*directory"):
        open_coco(tmp_path)


def test_a_truncated_file_names_the_byte(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    cut = json.dumps(document(), indent=1, ensure_ascii=False).replace("dog", "d\u00f6g")
    cut = cut[: cut.index('"cat"') + 5]  # after the two bytes of the umlaut
    path.write_text(cut, encoding="utf-8")
    size = path.stat().st_size
    assert size == len(cut) + 1
    message = rf"train\.json is not complete JSON \(.* at byte {size} of {size}\): it was cut short"
    with pytest.raises(NDSError, match=message) as error:
        open_coco(path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.arrow")), "half a store"


def test_an_empty_and_a_binary_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\n")
    with pytest.raises(NDSError, match=r"is empty \(1 bytes\)"):
        open_coco(path)
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xff")
    with pytest.raises(NDSError, match=r"byte 1 of 6 is not UTF-8.*compressed"):
        open_coco(path)
    path.write_text("[" * 200_000)
    with pytest.raises(NDSError, match="is not"):
        open_coco(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected an object, got a list"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "info": {}},
            "lacks 'annotations', 'categories'; its keys: 'images', 'info'",
        ),
        ({}, "lacks 'images', 'annotations', 'categories'; its keys: none"),
        ({"images": {}, "annotations": [], "categories": []}, "'images' must be a list, got a dict"),
        ({"images": [], "annotations": [], "categories": []}, "lists no images"),
    ],
)
def test_json_that_is_not_coco_says_what_is_missing(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(NDSError, match=re.escape(message)):
        open_coco(write_coco(tmp_path, content))


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["images"][1].pop("file_name"),
            "1 of 3 entries of 'images' have no 'file_name', first images[1]",
        ),
        (lambda d: d["annotations"][2].pop("bbox"), "1 of 5 entries of 'annotations' have no 'bbox'"),
        (
            _set("annotations", 0, "a string"),
            "entries of 'annotations' have no 'image_id', first annotations[0]",
        ),
        (_set("images", 1, "id", 12), "1 ids of 'images' occur more than once, first 12"),
        (_set("categories", 1, "id", 5), "1 ids of 'categories' occur more than once, first 5"),
        (_set("images", 1, "id", "3"), "ids of 'images' must be all whole numbers or all text, got int, str"),
        (_set("images", 1, "id", [3]), "must be all whole numbers or all text, got int, list"),
        (_set("images", 0, "file_name", 5), "'file_name' of images[0] must be text, got 5"),
        (
            _set("images", 0, "width", "64"),
            "'width' of image 12 must be a number of 0 (not known) to 1000000 pixels, got '64'",
        ),
        (_set("annotations", 3, "image_id", 99), "1 of 5 annotations are of no image that the file lists"),
        (_set("annotations", 3, "image_id", [3]), "first annotations[3] with image_id [3]"),
        (_set("annotations", 4, "category_id", 1), "first annotations[4] with category_id 1"),
        (
            _set("annotations", 1, "bbox", [1, 2, 3]),
            "not four numbers x, y, width, height, first annotations[1]",
        ),
        (_set("annotations", 1, "bbox", [1, 2, 3, "4"]), "1 of 5 boxes are not four numbers"),
        (_set("annotations", 1, "bbox", None), "with bbox None"),
        (_set("annotations", 1, "iscrowd", "yes"), "'iscrowd' of annotation 2 must be 0 or 1, got 'yes'"),
        (_set("annotations", 1, "keypoints", ["a", 1, 2]), "'keypoints' of annotation 2 must be numbers"),
        (
            _set("annotations", 1, "segmentation", [["a"] * 6]),
            "annotation 2 of image 12 has a segmentation that",
        ),
        (
            _set("annotations", 1, "segmentation", [[[1, 1], [5, 1], [5, 5], [1, 5]]]),
            "annotation 2 of image 12 has a segmentation that",
        ),
        (_set("annotations", 1, "segmentation", "mask"), "annotation 2 of image 12 has a segmentation that"),
        (
            _set("annotations", 1, "segmentation", {"size": 4}),
            "annotation 2 of image 12 has a segmentation that",
        ),
        (
            _set("annotations", 1, "bbox", [1, 2, 3, 10**400]),
            "'annotations' holds a value that is out of range",
        ),
        (_set("annotations", 1, "area", 10**400), "'annotations' holds a value that is out of range"),
        (_set("annotations", 1, "id", 2**70), "'annotations' holds a value that is out of range"),
        (
            _set("images", 1, "file_name", "\ud800.jpg"),
            "'images' holds a value that is out of range or no text",
        ),
        (_set("images", 1, "coco_url", "\ud800"), "'images' holds a value that is out of range or no text"),
        (_set("annotations", 1, "keypoints", [10**400, 1, 2]), "'keypoints' of annotation 2 must be numbers"),
        (
            _set("annotations", 1, "segmentation", [[10**400] * 6]),
            "annotation 2 of image 12 has a segmentation",
        ),
        (
            _set("annotations", 1, "segmentation", [[float("nan")] * 6]),
            "annotation 2 of image 12 has a segment",
        ),
        (
            _set("annotations", 1, "segmentation", [{"a": 1}]),
            "annotation 2 of image 12 has a segmentation that",
        ),
        (
            _set("annotations", 1, "segmentation", {"size": [48, 64], "counts": [1, 2]}),
            "annotation 2 of image 12 has a segmentation that is neither",
        ),
        (
            _set("annotations", 1, "segmentation", {"size": [-48, -64], "counts": [3072]}),
            "annotation 2 of image 12 has a segmentation that is neither",
        ),
        (
            _set("annotations", 1, "segmentation", {"size": [48, 64], "counts": "garbage~"}),
            "annotation 2 of image 12 has a segmentation that is neither",
        ),
        (
            _set("annotations", 1, "segmentation", {"size": [48, 64], "counts": ""}),
            "annotation 2 of image 12 has a segmentation that is neither",
        ),
        (
            _set("images", 0, "id", 2**70),
            "the ids of 'images' must be numbers of 64 bits, got 1180591620717411303424",
        ),
        (_set("categories", 0, "id", 2**70), "the ids of 'categories' must be numbers of 64 bits"),
        (
            _set("annotations", 0, "category_id", 2**70),
            "the 'category_id' values of 'annotations' must be numbers of 64 bits, got 11805",
        ),
        (
            _set("categories", 1, "name", "dog"),
            "annotations use 2 categories called 'dog', of the ids 5 and 2: rename all but one",
        ),
        (_set("categories", 0, "id", 1e300), "the ids of 'categories' must be all whole numbers or all text"),
        (
            _set("categories", 0, "id", True),
            "the ids of 'categories' must be all whole numbers or all text, got bool",
        ),
        (_set("images", 0, "id", 1.5), "must be all whole numbers or all text, got float (1.5), int"),
        (_set("annotations", 0, "image_id", 1.5), "first annotations[0] with image_id 1.5"),
        (
            _set("annotations", 0, "category_id", "5"),
            "the 'category_id' values of 'annotations' must be all whole numbers or all",
        ),
        (
            _set("categories", 0, "name", "cat \ud83d"),
            "the class name 'cat \\ud83d' holds half a character (a lone surrogate), which cannot be written",
        ),
        (_set("licenses", 0, "name", "\ud83d"), "'licenses' holds a value that is out of range or no text"),
        (_set("images", 1, "file_name", "a\0.jpg"), "'file_name' of images[1] holds the character 0"),
        (_set("images", 0, "width", 64.5), "'width' of image 12 must be a whole number of 0 (not known)"),
        (_set("images", 0, "width", ""), "'width' of image 12 must be a number of 0 (not known)"),
        (_set("annotations", 1, "iscrowd", -1), "'iscrowd' of annotation 2 must be 0 or 1, got -1"),
        (_set("annotations", 1, "iscrowd", [0]), "'iscrowd' of annotation 2 must be 0 or 1, got [0]"),
        (_set("annotations", 1, "ignore", "no"), "'ignore' of annotation 2 must be 0 or 1, got 'no'"),
        (_set("annotations", 1, "keypoints", "123"), "'keypoints' of annotation 2 must be numbers"),
        (
            _set("annotations", 1, "segmentation", [[1, 1, 9, 1, 9, 1e9]]),
            "a polygon of annotation 2 of image 12 reaches beyond 1000000 pixels",
        ),
        (
            _set("annotations", 1, "segmentation", [["1"] * 6]),
            "annotation 2 of image 12 has a segmentation that",
        ),
        (
            _set("annotations", 1, "segmentation", {"size": [48, 64], "counts": [0.5, 3071.5]}),
            "annotation 2 of image 12 has a segmentation that is neither",
        ),
    ],
)
def test_each_fault_has_its_line(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    content = document()
    change(content)
    path = write_coco(tmp_path, content)
    with pytest.raises(NDSError, match=re.escape(message)) as error:
        open_coco(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("unused", [0, 9])
def test_a_category_that_nothing_uses_is_left_out_if_another_one_has_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unused: int, text_ids: bool
) -> None:
    content = document()
    plain = open_coco(write_coco(tmp_path / "plain", content))
    content["categories"].insert(0, {"id": unused, "name": "dog", "supercategory": "none"})
    for item, key in [(c, "id") for c in content["categories"]] + [
        (a, "category_id") for a in content["annotations"]
    ]:
        item[key] = f"c{item[key]}" if text_ids else item[key]
    with caplog.at_level(logging.WARNING):
        store = open_coco(path := write_coco(tmp_path / "export", content))
    assert sorted(store.classes) == sorted(plain.classes) == ["cat", "dog"]
    shown = repr(content["categories"][0]["id"])
    assert f"{path}: 1 categories left out that no annotation uses and whose names" in caplog.text
    assert f"other categories have: {shown} ('dog')." in caplog.text
    counts = dict(zip(store.classes, store.header["category_counts"]))
    assert counts == {"cat": 3, "dog": 2}


def test_of_namesakes_that_nothing_uses_the_one_with_the_highest_id_stays(tmp_path: Path) -> None:
    content = document()
    content["categories"] = [{"id": i, "name": n} for i, n in ((0, "dog"), (1, "cat"), (2, "dog"))]
    content["annotations"] = [{**a, "category_id": 1} for a in content["annotations"]]
    store = open_coco(write_coco(tmp_path, content))
    assert list(zip(store.category_ids, store.classes)) == [(1, "cat"), (2, "dog")]


def test_boxes_are_clipped_or_dropped_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = document()
    boxes = [[-5, 4, 10, 10], [60, 40, 30, 30], [4, 4, 0, 5], [float("nan"), 0, 5, 5], [70, 4, 5, 5]]
    for annotation, box in zip(content["annotations"], boxes):
        annotation["bbox"] = box
        annotation["image_id"] = 12
    with caplog.at_level(logging.WARNING):
        read = records(write_coco(tmp_path, content))
    boxes = [annotation["bbox"] for record in read for annotation in record["annotations"]]
    assert boxes == [[0, 4, 5, 10], [60, 40, 4, 8]]
    (record,) = caplog.records
    text = record.getMessage()
    assert (
        "of 5 boxes, 2 (first: annotation 1 of image 12, bbox [-5, 4, 10, 10], image 64 x 48) leave" in text
    )
    assert "clipped to it; 3 (first: annotation 3 of image 12, bbox [4, 4, 0, 5]" in text
    assert text.endswith("have no area in their image and were dropped.")


def test_rounding_of_coco_boxes_is_not_a_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [54.0, 4.0, 10.01, 10.0]
    (first, *_) = records(write_coco(tmp_path, content))[1]["annotations"]
    assert first["bbox"] == [54.0, 4.0, 10.01, 10.0]
    assert not caplog.records


def test_boxes_of_images_without_a_size_are_kept(tmp_path: Path) -> None:
    content = document()
    del content["images"][0]["width"], content["images"][0]["height"]
    content["annotations"][0]["bbox"] = [500, 500, 10, 10]
    assert open_coco(write_coco(tmp_path, content)).num_annotations == 5


def test_masks_of_another_size_than_their_image_are_an_error(tmp_path: Path) -> None:
    content = document()
    content["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [10, 20, 2370]}
    message = "1 masks are not of their image's size, first annotations[1] of image 12: expected 64 x 48, got 60 x 40"
    with pytest.raises(NDSError, match=re.escape(message)):
        open_coco(write_coco(tmp_path, content))


def test_ids_of_categories_may_be_text(tmp_path: Path) -> None:
    content = document()
    for category in content["categories"]:
        category["id"] = f"c{category['id']}"
    for annotation in content["annotations"]:
        annotation["category_id"] = f"c{annotation['category_id']}"
    path = write_coco(tmp_path, content)
    assert open_coco(path).classes == ["cat", "dog"]
    assert [a["category_id"] for a in records(path)[1]["annotations"]] == [1, 0, 0]
    content["annotations"][3]["category_id"] = "c9"
    with pytest.raises(NDSError, match="of no category that the file lists, first with category_id 'c9'"):
        open_coco(write_coco(tmp_path, content))


def test_run_lengths_read_as_pycocotools_wrote_them() -> None:
    from pycocotools import mask as mask_util

    from nds_plugin.store.rle import runs

    rng = np.random.Generator(np.random.PCG64(0))
    for share in (0.0, 0.02, 0.5, 1.0):
        pixels = np.asfortranarray(rng.random((37, 300)) < share, dtype=np.uint8)
        expected = np.diff(np.flatnonzero(np.diff(np.r_[2, pixels.ravel(order="F"), 2])))
        if pixels.ravel(order="F")[0]:
            expected = np.r_[0, expected]
        assert runs(mask_util.encode(pixels)["counts"]).tolist() == expected.tolist()


def test_whole_floats_are_the_numbers_that_they_are(tmp_path: Path) -> None:
    expected = records(write_coco(tmp_path, document(), "plain.json"))
    content = document()
    for annotation in content["annotations"]:
        annotation["category_id"] = float(annotation["category_id"])
    content["images"][1]["id"] = 3.0
    content["images"][0]["width"] = 64.0
    content["categories"][0]["id"] = 5.0
    content["annotations"][0] |= {"id": 1.0, "iscrowd": 0.0}
    assert records(write_coco(tmp_path, content)) == expected


def test_a_list_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"images": [], "info": 1, "info": 2, "images": [{"id": 1, "file_name": "a"}]}')
    with pytest.raises(
        NDSError, match=r"twice\.json is not COCO json: the key 'images' occurs more than once"
    ):
        open_coco(path)
