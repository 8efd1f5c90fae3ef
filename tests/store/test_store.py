from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_user import cut, full_disk
from coco_files import document, write_coco
from killing import killed_after_line

from nds_plugin.datasets.coco import store as coco_store
from nds_plugin.datasets.coco.store import coco_spec, open_coco
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import VERSION
from nds_plugin.store import AnnotationStore, grouping, open_or_build, rle, schema, writer
from nds_plugin.store.opening import open_built
from nds_plugin.store.records import RecordDecoder
from nds_plugin.store.view import StoreView

CROWD = rle.encode(np.arange(48 * 64).reshape(48, 64) % 7 < 3).decode()


def random_document(images: int = 57, seed: int = 0, text_ids: bool = False) -> dict[str, Any]:
    """A COCO document with every kind of mask, in no order, some images empty."""
    rng = np.random.Generator(np.random.PCG64(seed))
    ids: list[Any] = rng.permutation(10 * images)[:images].tolist()
    ids = [f"img-{i}-é" for i in ids] if text_ids else ids
    pictures = [
        {"id": i, "file_name": f"d\u00e9j\u00e0/{n}.jpg", "width": 64, "height": 48}
        for n, i in enumerate(ids)
    ]
    annotations = []
    for number in range(4 * images):
        x, y, w, h = (float(v) for v in rng.integers(1, 20, 4))
        annotation: dict[str, Any] = {"id": number + 1, "image_id": ids[rng.integers(images * 3 // 4)]}
        annotation |= {"category_id": int(rng.choice([2, 5, 90])), "bbox": [x, y, w, h], "iscrowd": 0}
        kind = rng.integers(5)
        if kind == 0:
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]] * int(rng.integers(1, 4))
        elif kind == 1:
            annotation |= {"segmentation": {"size": [48, 64], "counts": CROWD}, "iscrowd": 1}
        elif kind == 2:
            annotation["segmentation"] = {
                "size": [48, 64],
                "counts": [number % 900, 20, 48 * 64 - 20 - number % 900],
            }
        elif kind == 3:
            annotation["keypoints"] = [1, 2, 2, 0, 0, 0]
        if rng.random() < 0.2:
            del annotation["iscrowd"]
        annotations.append(annotation)
    categories = [{"id": i, "name": n} for i, n in ((90, "cat"), (2, "ähre"), (5, "dog"))]
    return {"annotations": annotations, "categories": categories, "images": pictures}


def decoded(store: AnnotationStore, **options: Any) -> list[dict[str, Any]]:
    decode = RecordDecoder(store, "root", 1, lambda name: (0, 0), **options)
    return [decode(i) for i in range(len(store))]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record batches of five images, pieces of seven items: every boundary is crossed."""
    monkeypatch.setattr(writer, "BATCH_IMAGES", 5)
    monkeypatch.setattr(coco_store, "_CHUNK", 7)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("text_ids", [False, True])
def test_records_are_those_of_detectron2_whatever_the_order_and_the_batches(
    tmp_path: Path, text_ids: bool
) -> None:
    coco = pytest.importorskip("detectron2.data.datasets.coco")
    from detectron2.data import MetadataCatalog

    path = write_coco(tmp_path, random_document(text_ids=text_ids))
    name = f"store_test_{text_ids}"
    try:
        expected = coco.load_coco_json(str(path), "root", name)
    finally:
        MetadataCatalog.remove(name)
    assert decoded(open_coco(path)) == expected


@pytest.mark.usefixtures("small_batches")
def test_columns_agree_with_a_plain_loop_over_the_records(tmp_path: Path) -> None:
    store = open_coco(write_coco(tmp_path, random_document()))
    view = StoreView.whole(store, "root", "x")
    records = decoded(store)
    instances = [[a for a in r["annotations"] if not a.get("iscrowd")] for r in records]
    assert view.instance_counts().tolist() == [len(found) for found in instances]
    classes = [a["category_id"] for found in instances for a in found]
    assert view.class_counts().tolist() == np.bincount(classes, minlength=3).tolist()
    assert view.image_ids().to_pylist() == [str(r["image_id"]) for r in records]
    assert view.sizes().tolist() == [[64, 48]] * len(records)
    assert [records[i]["image_id"] for i in view.annotated().rows] == [
        r["image_id"] for r, found in zip(records, instances) if found
    ]
    assert store.class_counts().sum() == store.num_annotations == sum(len(r["annotations"]) for r in records)
    kept = view.take(np.array([3, 1, 40]))
    assert kept.image_ids().to_pylist() == [str(records[i]["image_id"]) for i in (3, 1, 40)]
    assert (
        kept.class_counts().tolist()
        == np.bincount([a["category_id"] for i in (3, 1, 40) for a in instances[i]], minlength=3).tolist()
    )


@pytest.mark.usefixtures("small_batches")
def test_classes_of_another_label_space_are_mapped_or_left_out(tmp_path: Path) -> None:
    store = open_coco(write_coco(tmp_path, random_document()))
    plain = decoded(store)
    new = np.array([7, -1, 0], dtype=np.int32)
    mapped = decoded(store, class_map=new)
    for before, after in zip(plain, mapped):
        expected = [{**a, "category_id": int(new[a["category_id"]])} for a in before["annotations"]]
        assert after["annotations"] == [a for a in expected if a["category_id"] >= 0]
    view = StoreView.whole(store, "root", "x").with_classes(new, 1)
    counts = [sum(not a.get("iscrowd") for a in r["annotations"]) for r in mapped]
    assert view.instance_counts().tolist() == counts
    assert view.class_counts(8).sum() == sum(counts)
    with pytest.raises(NDSError, match="x: a class map of 2 entries for its 3 classes"):
        view.with_classes(new[:2], 1)


def test_ids_choose_images_and_unknown_ids_none(tmp_path: Path) -> None:
    view = StoreView.whole(open_coco(write_coco(tmp_path, document())), "root", "x")
    assert view.choose(["20", "3", "99"]).image_ids().to_pylist() == ["3", "20"]


def test_a_second_opening_reads_no_annotation_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path, document())
    open_coco(path)
    monkeypatch.setattr(coco_store, "stream_object", None)
    assert len(open_coco(path)) == 3
    # Touched or copied, but with the same content: hashed once, then remembered.
    os.utime(path, (1, 1))
    assert len(open_coco(path)) == 3
    monkeypatch.setattr("nds_plugin.store.inputs.file_hash", None)
    assert len(open_coco(path)) == 3


def test_a_changed_file_makes_a_new_store(tmp_path: Path) -> None:
    content = document()
    path = write_coco(tmp_path, content)
    assert open_coco(path).classes == ["cat", "dog"]
    content["categories"][0]["name"] = "god"  # the same size
    write_coco(tmp_path, content)
    os.utime(path, (1, 1))
    assert open_coco(path).classes == ["cat", "god"]
    content["images"].append({"id": 21, "file_name": "d.jpg", "width": 4, "height": 4})
    assert len(open_coco(write_coco(tmp_path, content))) == 4


def test_a_store_that_was_cut_short_or_is_of_another_version_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    open_or_build(spec)
    for size in (0, 100, spec.path.stat().st_size - 10):
        cut(spec.path, size)
        with pytest.raises(NDSError, match=r"is not a whole annotation store|is damaged .*: delete it"):
            AnnotationStore(spec.path).batch(0)
        assert not open_built(spec, spec.inputs())
        assert len(open_or_build(spec)) == 3
    monkeypatch.setattr("nds_plugin.files.artifacts.VERSION", VERSION + 1)
    with pytest.raises(NDSError, match=rf"written in version {VERSION} .* reads version {VERSION + 1}"):
        AnnotationStore(spec.path)
    monkeypatch.undo()
    monkeypatch.setattr("nds_plugin.store.reader.FORMAT", schema.FORMAT + 1)
    with pytest.raises(
        NDSError,
        match=rf"a store of format {schema.FORMAT}, this release reads {schema.FORMAT + 1}: delete it",
    ):
        AnnotationStore(spec.path)


def test_a_full_disk_is_one_line_and_leaves_the_old_store(tmp_path: Path) -> None:
    path = write_coco(tmp_path, random_document(400))
    with full_disk(4096), pytest.raises(NDSError, match="disk full while writing"):
        open_coco(path)
    assert not list(tmp_path.rglob("*.arrow"))
    assert not list(tmp_path.rglob("*.scratch"))
    assert len(open_coco(path)) == 400


def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_coco(tmp_path, document())
    real = coco_store.stream_object

    def meddle(*args: Any) -> Any:
        yield from real(*args)
        path.write_text(path.read_text() + " ")

    monkeypatch.setattr(coco_store, "stream_object", meddle)
    with pytest.raises(NDSError, match="its annotation files changed while they were read"):
        open_coco(path)


def _build_and_report(path: str, log: str) -> None:
    store = open_coco(path)
    with open(log, "a") as file:
        file.write(f"{len(store)}\n")


@pytest.mark.slow
def test_many_builders_at_once_make_one_store(tmp_path: Path) -> None:
    path, log = write_coco(tmp_path, random_document(300)), tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_build_and_report, args=(str(path), str(log))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "300\n" * 4
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


_SLOW_BUILD = """
import sys, time
from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.store import writer
real = writer.StoreWriter.add_annotations
def slow(self, batch):
    real(self, batch)
    print("half", flush=True)
    time.sleep(60)
writer.StoreWriter.add_annotations = slow
open_coco(sys.argv[1])
"""


def test_a_build_killed_in_the_middle_leaves_no_store_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = write_coco(tmp_path, random_document(300))
    killed_after_line(_SLOW_BUILD, "half", str(path))
    assert not list(tmp_path.rglob("*.arrow"))
    start = time.monotonic()
    store = open_coco(path)
    assert time.monotonic() - start < 30, "waited for the dead"
    assert len(store) == 300
    assert not list(tmp_path.rglob("*.scratch"))


def test_masks_of_images_without_a_size_are_refused_where_they_are_not_of_their_files(tmp_path: Path) -> None:
    content = document()
    for key in ("width", "height"):
        del content["images"][0][key]  # of image 12
    whole, small = ({"size": size, "counts": [0, size[0] * size[1]]} for size in ([48, 64], [24, 32]))
    content["annotations"][0]["segmentation"] = whole
    content["annotations"][3]["segmentation"] = {"size": [40, 60], "counts": [0, 2400]}
    decode = RecordDecoder(open_coco(write_coco(tmp_path, content)), "root", 1, lambda name: (64, 48))
    assert decode(1)["annotations"][0]["segmentation"]["size"] == [48, 64]
    content["annotations"][1]["segmentation"] = small
    decode = RecordDecoder(open_coco(write_coco(tmp_path, content)), "root", 1, lambda name: (64, 48))
    assert decode(0)["annotations"][0]["segmentation"]["size"] == [40, 60]
    message = (
        "root/b.jpg: 1 of its 3 annotations have a mask that is not of the image's size, the first one: expected "
        "64 x 48, got 32 x 24: correct the annotation file."
    )
    with pytest.raises(NDSError, match=f"^{re.escape(message)}$"):
        decode(1)


def test_batches_are_cut_by_their_values_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path, random_document())
    expected = decoded(open_coco(path))
    monkeypatch.setattr(writer, "BATCH_VALUES", 40)
    cut_store = open_coco(path, root=tmp_path / "cut")
    assert cut_store.num_batches > 10
    assert decoded(cut_store) == expected
    edges = grouping.batch_edges(np.array([0, 2, 4, 6, 6]), [np.array([0, 5, 9, 9, 30, 31, 31])], 3, 10)
    assert edges == [0, 1, 2, 4], "an image with more values than a batch should have is one of its own"


def test_a_process_that_was_given_a_store_refuses_another_one_in_its_place(tmp_path: Path) -> None:
    content = document()
    path = write_coco(tmp_path, content)
    packed = pickle.dumps(open_coco(path))
    content["images"].append({"id": 1, "file_name": "d.jpg", "width": 4, "height": 4})
    open_coco(write_coco(tmp_path, content))
    with pytest.raises(NDSError, match="was built again while it was in use, from other annotations"):
        pickle.loads(packed)


def test_a_store_without_its_companion_files_is_made_again(tmp_path: Path) -> None:
    companion = tmp_path / "pixels"
    companion.touch()
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    spec = dataclasses.replace(spec, companions=lambda store: [companion])
    open_or_build(spec)
    assert open_built(spec, spec.inputs())
    companion.unlink()
    assert not open_built(spec, spec.inputs())


def test_a_store_travels_to_other_processes_as_its_path(tmp_path: Path) -> None:
    view = StoreView.whole(open_coco(write_coco(tmp_path, random_document(2000))), "root", "x")
    store = pickle.dumps(view.store)
    assert len(store) < 500
    assert decoded(pickle.loads(store)) == decoded(view.store)


def test_an_image_beyond_the_end_is_an_index_error(tmp_path: Path) -> None:
    decode = RecordDecoder(open_coco(write_coco(tmp_path, document())), "root", 1, lambda name: (0, 0))
    for position in (3, -1):
        with pytest.raises(IndexError):
            decode(position)


def test_records_of_real_files_are_those_of_detectron2(nds_data: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("detectron2.data.datasets.coco")
    from detectron2.data import MetadataCatalog

    files = sorted((nds_data / "detection").glob("*/*.json"))
    assert len(files) > 40
    for path in files:
        name = f"real_{path.parent.name}_{path.stem}"
        try:
            expected = coco.load_coco_json(str(path), str(path.parent / "images"), name)
        finally:
            MetadataCatalog.remove(name)
        store = open_coco(path, root=tmp_path)
        decode = RecordDecoder(store, str(path.parent / "images"), 1, lambda name: (0, 0))
        assert [decode(i) for i in range(len(store))] == expected, path
        assert json.dumps(store.header)


def test_a_file_name_may_be_a_url_or_a_whole_path(tmp_path: Path) -> None:
    content = random_document(images=4)
    names = ["s3://bucket/a.jpg", "/far/b.jpg", "c.jpg", "odd/x://d.jpg"]
    for image, name in zip(content["images"], names):
        image["file_name"] = name
    store = open_coco(write_coco(tmp_path, content))
    files = [record["file_name"] for record in decoded(store)]
    assert sorted(files) == sorted([*names[:2], "root/c.jpg", "root/odd/x://d.jpg"])
    assert index_store(store, "root", "source").column("file_name").tolist() == files
