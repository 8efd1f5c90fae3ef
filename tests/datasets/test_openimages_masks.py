"""OpenImages: masks from PNG files, packed or not, and builds of them that are killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from killing import killed_when
from openimages_builds import BITS, MASKS, XYWH_ABS, build, flags, records
from openimages_trees import CLASSES, CORNERS, some_images
from PIL import Image
from pycocotools import mask as mask_util

from nds_plugin.datasets.openimages.png import MaskJob, run_lengths
from nds_plugin.datasets.openimages.split import openimages_split
from nds_plugin.images.reading import read_header
from nds_plugin.store import rle
from nds_plugin.store.records import RecordDecoder

pytestmark = pytest.mark.slow


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


SLOW = """
import sys, time
from pathlib import Path
from nds_plugin.datasets.openimages import mask_read as module
from nds_plugin.datasets.openimages.split import openimages_split
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
    killed_when(SLOW, lambda: len(list(parts.glob("*.arrow"))) == 2, str(tmp_path))
    assert len(list(parts.glob("*.arrow"))) == 2  # the headers, the masks of one archive
    assert not path.exists()
    from nds_plugin.datasets.openimages import mask_read as module

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
