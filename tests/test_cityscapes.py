from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from nds_plugin.datasets import cityscapes, prepare
from nds_plugin.errors import NDSError

pytest.importorskip("cityscapesscripts", reason="pip install --no-deps cityscapesscripts")

LABEL = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
ROAD, CARAVAN = 7, 29


def _instance_ids(seed: int, height: int = 64, width: int = 128) -> np.ndarray[Any, Any]:
    """Overlapping rectangles and discs: all eight classes, groups, a class that is left out."""
    rng = np.random.Generator(np.random.PCG64(seed))
    ids = np.full((height, width), ROAD, dtype=np.uint16)
    rows, columns = np.mgrid[:height, :width]
    labels = list(LABEL.values())
    for n, label in enumerate([*labels, *labels, CARAVAN]):
        value = label if n % 5 == 4 else label * 1000 + n // len(labels)
        y, x, r = rng.integers(0, height), rng.integers(0, width), rng.integers(3, 20)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = value
    ids[:, 5] = LABEL["bus"] * 1000 + 7  # a run that ends one column, and one at the last pixel
    ids[-1, -1] = LABEL["car"] * 1000 + 9
    return ids


def _write_tree(root: Path, split: str = "train", count: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    frames = {}
    for i in range(count):
        city = ("aachen", "zurich")[i % 2]
        stem = f"{city}_{i:06d}_000019"
        frames[stem] = _instance_ids(i)
        for part, suffix, pixels in (
            ("leftImg8bit", "_leftImg8bit.png", np.zeros((64, 128, 3), dtype=np.uint8)),
            ("gtFine", "_gtFine_instanceIds.png", frames[stem]),
        ):
            path = root / part / split / city / f"{stem}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return frames


def test_masks_are_exact_to_the_pixel(tmp_path: Path) -> None:
    frames = _write_tree(tmp_path)
    document = json.loads(cityscapes.prepare(tmp_path, "train").read_text())
    assert [c["name"] for c in document["categories"]] == list(LABEL)
    assert [c["id"] for c in document["categories"]] == list(range(1, 9))
    assert [image["id"] for image in document["images"]] == sorted(frames)
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    names = list(LABEL)
    for image in document["images"]:
        path = tmp_path / "leftImg8bit" / "train" / image["file_name"]
        assert path.is_file()
        png = tmp_path / "gtFine" / "train" / image["file_name"].replace("leftImg8bit", "gtFine_instanceIds")
        ids = np.asarray(Image.open(png)).astype(int)  # decoded anew: the law is about the file
        assert (ids == frames[image["id"]]).all()
        annotations = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        found = set()
        for annotation in annotations:
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            (value,) = np.unique(ids[mask])
            found.add(int(value))
            assert (mask == (ids == value)).all()
            label = int(value) if annotation["iscrowd"] else int(value) // 1000
            assert annotation["iscrowd"] == int(value < 1000)
            assert LABEL[names[annotation["category_id"] - 1]] == label
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["area"] == mask.sum()
        classes = set(LABEL.values())
        assert found == {v for v in np.unique(ids).tolist() if v in classes or v // 1000 in classes}


def test_instances_agree_with_cityscapesscripts(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.instances2dict")
    _write_tree(tmp_path)
    document = json.loads(cityscapes.prepare(tmp_path, "train").read_text())
    stems = {image["id"]: image["file_name"] for image in document["images"]}
    compared = 0
    for stem, name in stems.items():
        png = str(tmp_path / "gtFine" / "train" / name.replace("leftImg8bit", "gtFine_instanceIds"))
        with contextlib.redirect_stdout(io.StringIO()):
            (theirs,) = evaluation.instances2dict([png]).values()
        for i, class_name in enumerate(cityscapes.CLASSES, start=1):
            ours = [a for a in document["annotations"] if (a["image_id"], a["category_id"]) == (stem, i)]
            expected = sorted(
                (instance["instID"] < 1000, instance["pixelCount"]) for instance in theirs[class_name]
            )
            assert sorted((bool(a["iscrowd"]), a["area"]) for a in ours) == expected
            compared += len(ours)
    assert compared > 20


def test_a_second_call_does_not_convert_again_and_a_change_does(tmp_path: Path) -> None:
    _write_tree(tmp_path)
    path = cityscapes.prepare(tmp_path, "train")
    assert path == tmp_path / "annotations" / "nds_instances_train.json"
    first = path.stat()
    assert cityscapes.prepare(tmp_path, "train") == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    _write_tree(tmp_path, count=4)
    cityscapes.prepare(tmp_path, "train")
    assert len(json.loads(path.read_text())["images"]) == 4
    changed = next(tmp_path.glob("gtFine/train/aachen/*"))
    Image.fromarray(np.full((64, 128), 26001, dtype=np.uint16)).save(changed)
    cityscapes.prepare(tmp_path, "train")
    boxes = [a["bbox"] for a in json.loads(path.read_text())["annotations"]]
    assert [0.0, 0.0, 128.0, 64.0] in boxes


def test_an_annotation_file_lost_from_the_cache_is_made_again(tmp_path: Path) -> None:
    _write_tree(tmp_path)
    path = cityscapes.prepare(tmp_path, "train")
    content = path.read_bytes()
    path.unlink()
    assert cityscapes.prepare(tmp_path, "train").read_bytes() == content


def _prepare_in_process(root: str, log: str) -> None:
    original = cityscapes.convert

    def counted(*args: Any) -> Any:
        with open(log, "a") as file:
            file.write("built\n")
        return original(*args)

    cityscapes.convert = counted  # type: ignore[assignment]
    cityscapes.prepare(root, "train")


def test_of_many_processes_one_builds(tmp_path: Path) -> None:
    _write_tree(tmp_path, count=6)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    arguments = (str(tmp_path), str(tmp_path / "log"))
    workers = [context.Process(target=_prepare_in_process, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_missing_tree_shows_the_expected_one(tmp_path: Path) -> None:
    with pytest.raises(
        NDSError, match=r"no image found; expected .*/leftImg8bit/train/CITY/.*instanceIds\.png"
    ) as error:
        cityscapes.prepare(tmp_path, "train")
    assert "\n" not in str(error.value)
    _write_tree(tmp_path)
    with pytest.raises(NDSError, match="Cityscapes val: no image found"):
        cityscapes.prepare(tmp_path, "val")


def test_a_frame_without_its_counterpart_is_named(tmp_path: Path) -> None:
    _write_tree(tmp_path)
    (victim,) = tmp_path.glob("gtFine/train/zurich/*")
    victim.unlink()
    with pytest.raises(
        NDSError, match=r"1 images and annotations lack their counterpart, first .*zurich.*leftImg8bit"
    ):
        cityscapes.prepare(tmp_path, "train")


def test_broken_annotation_images_are_named_and_leave_nothing(tmp_path: Path) -> None:
    _write_tree(tmp_path)
    victim = next(tmp_path.glob("gtFine/train/zurich/*"))
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    with pytest.raises(NDSError, match=r"Cityscapes: .*zurich_000001_000019_gtFine_instanceIds"):
        cityscapes.prepare(tmp_path, "train")
    Image.fromarray(np.zeros((10, 10), dtype=np.uint16)).save(victim)
    with pytest.raises(NDSError, match=r"has shape \(10, 10\), expected one channel of \(64, 128\)"):
        cityscapes.prepare(tmp_path, "train")
    assert not list((tmp_path / "annotations").glob("*.json"))


def test_the_absent_package_is_named_with_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_tree(tmp_path)
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    with pytest.raises(NDSError, match=r"pip install .*cityscapesscripts"):
        cityscapes.prepare(tmp_path, "train")


def test_a_read_only_tree_is_cached_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Root may write anywhere, so the answer of the system is set here, for this tree alone.
    real = os.access
    data = str(tmp_path / "data")
    monkeypatch.setattr(prepare.os, "access", lambda p, mode: not str(p).startswith(data) and real(p, mode))
    _write_tree(tmp_path / "data")
    path = cityscapes.prepare(tmp_path / "data", "train")
    assert path.is_relative_to(tmp_path / "cache" / "nds_plugin")
    assert not (tmp_path / "data" / "annotations").exists()
    assert path != cityscapes.json_path(tmp_path / "data2" / "cityscapes", "train")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NDSError, match=r"cannot write .*\.x\.lock: "):
        prepare.build_once(tmp_path / "file" / "x", lambda: False, lambda: None)


def test_waiting_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import fcntl
    import threading

    holder = os.open(tmp_path / ".x.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    built: list[int] = []
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(
            target=prepare.build_once, args=(tmp_path / "x", lambda: False, lambda: built.append(1))
        )
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not built
        os.close(holder)
        thread.join(10)
    assert built == [1]
    assert "another process is making" in caplog.text
