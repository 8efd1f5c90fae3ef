from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from store_objects import objects_of

from nds_plugin.datasets.coco import modanet
from nds_plugin.datasets.coco.modanet import Draw, draw, draw_path, saved_draw
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_json
from nds_plugin.store import AnnotationStore, open_or_build

NAMES = (
    *("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants", "top", "shorts"),
    *("skirt", "headwear", "scarf/tie"),
)


def _image(i: int) -> dict[str, Any]:
    width, height = (300, 450) if i % 5 == 0 else (400, 600)
    return {"file_name": f"{i:07d}.jpg", "height": height, "id": i, "license": 3, "width": width}


def _document(ids: list[int], annotated: list[int]) -> dict[str, Any]:
    annotations = []
    for i in annotated:
        for k in range(1 + i % 3):
            x, y = 10 * k + i % 7, 20 * k + 5
            segmentation = [[x, y, x + 30, y, x + 30, y + 40, x, y + 40]]
            if k:
                segmentation.append([x + 50, y, x + 60, y, x + 60, y + 10])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1 + (i + k) % 13,
                    "bbox": [x, y, 60 if k else 30, 40],
                    "area": 1250 if k else 1200,
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
    return {
        "info": {"description": "ModaNet", "year": 2018},
        "images": [_image(i) for i in ids],
        "year": 2018,
        "licenses": [{"id": 3, "name": "CC BY-NC 4.0", "url": "https://creativecommons.org"}],
        "type": "instances",
        "annotations": annotations,
        "categories": [
            {"supercategory": "fashion", "id": i, "name": n} for i, n in enumerate(NAMES, start=1)
        ],
    }


IDS = list(range(3, 1200, 37))  # as sparse as Paperdoll's
EMPTY = IDS[::8]  # some images of the published file have no annotation


def _write(root: Path, seed: int = 0) -> Path:
    """Both published files, the images in a random order; sizes of all images as the json says."""
    ids = random.Random(seed).sample(IDS, len(IDS))
    folder = root / "modanet" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    train = _document(ids, [i for i in ids if i not in EMPTY])
    (folder / "modanet2018_instances_train.json").write_text(json.dumps(train))
    (folder / "modanet2018_instances_val.json").write_text(json.dumps(_document([5000, 5001], [])))
    images = root / "modanet" / "images"
    images.mkdir(exist_ok=True)
    for i in IDS[:4]:
        size = _image(i)["width"], _image(i)["height"]
        Image.new("L" if i == IDS[1] else "RGB", size).save(images / f"{i:07d}.jpg")
    return root


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(modanet, "MINI_IMAGES", 5)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return _write(tmp_path)


def _mini(root: Path, split: str) -> AnnotationStore:
    return open_or_build(modanet.mini_spec(split, root))


def _ids(store: AnnotationStore) -> list[int]:
    return list(store.column("image_id").tolist())


def test_records_are_those_of_load_coco_json(tree: Path) -> None:
    coco = pytest.importorskip("detectron2.data.datasets.coco")
    from nds_plugin.d2 import register_all
    from nds_plugin.d2.data.registration import dataset_classes, dataset_dicts, index_dataset

    register_all()
    path = tree / "modanet/annotations/modanet2018_instances_train.json"
    theirs = coco.load_coco_json(str(path), str(tree / "modanet/images"), "modanet_train")
    assert list(dataset_dicts("modanet_train")) == theirs
    assert dataset_classes("modanet_train") == list(NAMES)
    index = index_dataset("modanet_train")
    assert set(index.column("license").tolist()) == {"CC BY-NC 4.0"}
    ids = set(_ids(_mini(tree, "train")))
    assert list(dataset_dicts("minimodanet_train")) == [r for r in theirs if r["image_id"] in ids]
    assert dataset_classes("minimodanet_val") == list(NAMES)


def test_annotations_are_those_of_pycocotools(tree: Path) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tree / "modanet/annotations/modanet2018_instances_train.json"))
    store = open_or_build(modanet.spec("train", tree))
    assert _ids(store) == sorted(coco.imgs)
    assert store.num_annotations == len(coco.anns)
    owners = np.repeat(_ids(store), store.object_counts)
    found = zip(owners.tolist(), objects_of(store).annotation_id.tolist(), objects_of(store).bbox.tolist())
    assert sorted(found) == sorted((a["image_id"], a["id"], a["bbox"]) for a in coco.anns.values())


def test_the_draws_are_disjoint_annotated_and_of_their_size(tree: Path) -> None:
    train, val = _ids(_mini(tree, "train")), _ids(_mini(tree, "val"))
    assert len(train) == len(val) == 5
    assert not set(train) & set(val)
    assert not (set(train) | set(val)) & set(EMPTY)
    for split in ("train", "val"):
        store = _mini(tree, split)
        assert (store.object_counts > 0).all()
        assert store.header["info"]["draw"]["hash"] == saved_draw(tree).hash


def test_the_draw_depends_on_the_ids_and_the_seed_alone() -> None:
    ids = list(range(0, 9000, 3))
    first = draw(ids, 100, seed=0)
    assert draw(ids[::-1], 100, seed=0) == first
    assert draw(random.Random(1).sample(ids, len(ids)), 100, seed=0) == first
    other = draw(ids, 100, seed=1)
    assert len(set(other.train) & set(first.train)) < 20
    assert set(draw(ids, 50, seed=0).train) < set(first.train)
    # Written down, so that a change of the rule, of Python or of a library cannot pass unseen.
    golden = draw(range(20), 3, seed=0)
    assert golden == Draw(train=(4, 10, 16), val=(0, 14, 18), seed=0)
    assert golden.hash.startswith("f5b1280f186692ca")


def test_the_draw_is_fair() -> None:
    counts = np.zeros(40)
    for seed in range(600):
        counts[list(draw(range(40), 10, seed).train)] += 1
    assert counts.sum() == 6000
    assert abs(counts - 150).max() < 5 * np.sqrt(150 * 0.75)


def test_the_draw_is_saved_with_its_rule_and_its_hash(tree: Path) -> None:
    drawn = saved_draw(tree)
    document = read_json(draw_path(tree), "image-draw")
    assert document["train"] == list(drawn.train)
    assert document["val"] == list(drawn.val)
    assert (document["seed"], document["hash"]) == (0, drawn.hash)
    assert "SHA-256" in document["rule"]
    before = draw_path(tree).stat().st_mtime_ns
    assert saved_draw(tree) == drawn
    assert draw_path(tree).stat().st_mtime_ns == before


def test_another_order_of_the_file_gives_the_same_images(tree: Path, tmp_path: Path) -> None:
    first = _ids(_mini(tree, "train"))
    other = _write(tmp_path / "other", seed=5)
    assert _ids(_mini(other, "train")) == first
    assert saved_draw(other).hash == saved_draw(tree).hash


def test_ids_that_are_not_those_of_the_hash_are_drawn_again(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = saved_draw(tree)
    path = draw_path(tree)
    document = json.loads(path.read_text())
    document["train"][0] = EMPTY[0]
    path.write_text(json.dumps(document))
    assert saved_draw(tree) == drawn
    assert "its ids are not those of its hash" in caplog.text


def test_too_few_images_to_draw_from_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modanet, "MINI_IMAGES", 1000)
    with pytest.raises(
        NDSError, match=rf"at least 2 x 1000 annotated images .* it has {len(IDS) - len(EMPTY)}"
    ):
        _mini(tree, "train")


def test_val_is_a_source_of_images_without_annotations(tree: Path) -> None:
    pytest.importorskip("detectron2")
    from nds_plugin.d2 import register_all
    from nds_plugin.d2.data.registration import index_dataset
    from nds_plugin.d2.train.evaluation import check_ground_truth

    register_all()
    assert len(index_dataset("modanet_val")) == 2
    with pytest.raises(NDSError, match="'modanet_val' has no annotations to evaluate against"):
        check_ground_truth("modanet_val")
    check_ground_truth("minimodanet_val")


def test_a_photo_of_another_size_than_the_annotated_one_is_named(tree: Path) -> None:
    pytest.importorskip("detectron2")
    from nds_plugin.d2 import NDSDatasetMapper, register_all
    from nds_plugin.d2.data.registration import dataset_dicts

    register_all()
    mapper = NDSDatasetMapper(is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True)
    records = list(dataset_dicts("modanet_train"))[:4]
    for record in records:
        assert tuple(mapper(record)["image"].shape) == (3, record["height"], record["width"])
    Image.new("RGB", (200, 300)).save(records[0]["file_name"])
    expected = f"the image is 200x300, its annotations say {records[0]['width']}x{records[0]['height']}"
    with pytest.raises(NDSError, match=expected):
        mapper(records[0])


def test_missing_files_show_the_expected_tree(tmp_path: Path) -> None:
    with pytest.raises(
        NDSError, match=r"modanet2018_instances_val\.json is not there. Expected .*eBay/modanet"
    ):
        open_or_build(modanet.spec("val", tmp_path))


def test_a_pointer_of_git_lfs_is_told_from_the_annotations(tree: Path) -> None:
    path = tree / "modanet/annotations/modanet2018_instances_train.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:b8a3\nsize 105924292\n")
    with pytest.raises(NDSError, match=r"train\.json is a pointer of Git LFS.*git lfs pull"):
        open_or_build(modanet.spec("train", tree))


def test_a_cut_file_leaves_neither_store_nor_draw(tree: Path) -> None:
    path = tree / "modanet/annotations/modanet2018_instances_train.json"
    path.write_text(path.read_text()[:3000])
    with pytest.raises(NDSError, match=r"train\.json is not complete JSON"):
        _mini(tree, "train")
    assert not list((tree / "nds_stores").glob("*.arrow"))
    assert not draw_path(tree).exists()
