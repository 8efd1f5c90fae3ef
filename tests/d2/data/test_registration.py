from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import document, write_coco, write_image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets.coco import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode

from nds_plugin.d2.data.known_datasets import register_all, register_coco_folder
from nds_plugin.d2.data.registration import (
    check_registered,
    dataset_classes,
    dataset_dicts,
    index_dataset,
    register_image_subset,
    registered_temporarily,
)
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.datasets.sample.generate import DOMAINS
from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.images.reading import ImageError
from nds_plugin.source.index import NO_LABEL


@pytest.fixture(autouse=True)
def _catalogs_as_before() -> Iterator[None]:
    functions, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, functions), (MetadataCatalog, metadata)):
        for name in list(catalog):
            if name not in before:
                catalog.pop(name)
        catalog.update(before)


def _plain(name: str = "plain", **annotation: Any) -> list[dict[str, Any]]:
    box = {"bbox": [1.0, 2.0, 11.0, 12.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, **annotation}
    return [{"file_name": f"/{name}/x.jpg", "image_id": "x", "width": 64, "height": 48, "annotations": [box]}]


def test_an_unknown_name_lists_the_near_ones() -> None:
    for function in (dataset_dicts, dataset_classes, index_dataset):
        with pytest.raises(
            NDSError, match=r"unknown dataset 'coco_2017_trian'. Did you mean 'coco_2017_train'"
        ):
            function("coco_2017_trian")
    with pytest.raises(UnknownNameError, match="unknown dataset 'nothing'"):
        check_registered(["coco_2017_train", "nothing"])
    check_registered("coco_2017_train")


def test_dicts_are_those_of_detectron2(tmp_path: Path) -> None:
    content = document(masks=True)
    content["annotations"][0]["keypoints"] = [5, 6, 2, 7, 8, 1]
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]  # no polygon: left out by both
    content["annotations"][3]["segmentation"] = []
    content["annotations"][4]["segmentation"] = {"size": [40, 60], "counts": [100, 50, 2250]}
    path = write_coco(tmp_path, content)
    with registered_temporarily("ours", json_file=str(path), image_root="images"):
        ours = dataset_dicts("ours")
        assert dataset_classes("ours") == ["cat", "dog"]
        theirs = load_coco_json(str(path), "images", "ours")  # also: same metadata, or it would raise
    assert list(ours) == theirs
    assert [len(record["annotations"]) for record in ours] == [2, 2, 0]


def test_classes_need_no_dicts(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    with registered_temporarily("ours", json_file=str(path), image_root="images"):
        assert dataset_classes("ours") == ["cat", "dog"]
    assert "ours" not in DatasetCatalog
    assert "ours" not in MetadataCatalog


def test_what_detectron2_registered_is_checked_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [60, 4, 10, 10]
    content["annotations"][3]["bbox"] = [4, 4, 0, 0]
    path = write_coco(tmp_path, content)
    register_coco_instances("stock", {}, str(path), "images")
    records = dataset_dicts("stock")
    assert [len(record["annotations"]) for record in records] == [1, 3, 0]
    assert records[1]["annotations"][0]["bbox"] == [60, 4, 4, 10]
    assert "clipped" in caplog.text
    path.write_text(path.read_text()[:-30])
    with pytest.raises(NDSError, match="not complete JSON"):
        dataset_dicts("stock")


def test_a_missing_annotation_file_says_where_the_datasets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    message = r"dataset 'coco_2017_val': annotation file not found: .*instances_val2017.json.*is not set"
    for function in (dataset_dicts, index_dataset):
        with pytest.raises(NDSError, match=message):
            function("coco_2017_val")
    monkeypatch.setenv("DETECTRON2_DATASETS", "/else/where")
    with pytest.raises(NDSError, match="DETECTRON2_DATASETS is '/else/where'"):
        dataset_dicts("coco_2017_val")
    with pytest.raises(NDSError, match=r"dataset 'voc_2007_test': .* not found: .*VOC2007.*test\.txt"):
        dataset_dicts("voc_2007_test")


def test_other_errors_of_a_dataset_are_one_line(tmp_path: Path) -> None:
    def load() -> list[dict[str, Any]]:
        raise KeyError("several\nlines")

    failure = pytest.raises(NDSError, match="'bad' cannot be loaded: KeyError")
    with registered_temporarily("bad", load), failure as error:
        dataset_dicts("bad")
    assert "\n" not in str(error.value)
    with registered_temporarily("none", list), pytest.raises(NDSError, match="dataset 'none' has no images"):
        dataset_dicts("none")
    with registered_temporarily("bare", _plain), pytest.raises(NDSError, match="'bare' has no thing_classes"):
        dataset_classes("bare")
    path = str(write_coco(tmp_path, document()))
    other = registered_temporarily("other", json_file=path, thing_classes=["a", "b", "c", "d"])
    message = r"lists the classes cat, dog, but .* a, b, c, \.\.\. \(4 in all\)"
    with other, pytest.raises(NDSError, match=message):
        dataset_dicts("other")


def test_a_size_that_the_file_does_not_give_comes_from_the_image(tmp_path: Path) -> None:
    content = document()
    del content["images"][0]["height"]
    path, root = str(write_coco(tmp_path, content)), tmp_path / "images"
    with registered_temporarily("ours", json_file=path, image_root=str(root)):
        with pytest.raises(
            ImageError, match=r"b\.jpg: no such image file\. Its annotations give no width and height"
        ):
            list(dataset_dicts("ours"))
        write_image(root / "b.jpg", 64, 48)
        (record,) = [r for r in dataset_dicts("ours") if r["image_id"] == 12]
        assert (record["width"], record["height"]) == (64, 48)


def test_boxes_of_other_datasets_are_cleaned_without_touching_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = _plain()
    good = records[0]["annotations"][0]
    records[0]["annotations"] += [
        {**good, "bbox": [-4, 2, 11, 12]},
        {**good, "bbox": [5, 5, 5, 9]},
        {**good, "bbox": [60, 40, 10, 10], "bbox_mode": BoxMode.XYWH_ABS},
        {**good, "bbox": [float("nan"), 5, 9, 9]},
    ]
    before = copy.deepcopy(records)
    with registered_temporarily("boxes", lambda: records), caplog.at_level(logging.WARNING):
        cleaned = dataset_dicts("boxes")
    boxes = [(a["bbox"], a["bbox_mode"]) for a in cleaned[0]["annotations"]]
    assert boxes == [(box, BoxMode.XYXY_ABS) for box in (good["bbox"], [0, 2, 11, 12], [60, 40, 64, 48])]
    assert "2 boxes leave their image and were clipped, 2 have no area" in caplog.text
    assert str(records) == str(before)  # as text, since NaN differs from itself


def test_index_of_a_coco_file_and_of_dicts_agree(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    with registered_temporarily("ours", json_file=str(path), image_root="images"):
        direct = index_dataset("ours")
        records = dataset_dicts("ours")
    with registered_temporarily("ours", lambda: records, thing_classes=["cat", "dog"]):
        through_dicts = index_dataset("ours")
    for column in ("source", "image_id", "file_name", "width", "height", "label"):
        assert direct.column(column).tolist() == through_dicts.column(column).tolist()
    assert direct.sources == ["ours"]
    assert direct.column("label").tolist() == [1, 0, NO_LABEL]
    assert direct.classes == through_dicts.classes == ("cat", "dog")


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DETECTRON2_DATASETS with the annotations of COCO 2017: one of three images has a crowd alone."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.delenv("NDS_DATA", raising=False)
    content = document(masks=True)
    content["annotations"] = [a for a in content["annotations"] if a["id"] != 4]
    for split in ("train", "val"):
        write_coco(tmp_path / "coco" / "annotations", content, f"instances_{split}2017.json")
    for split in ("train", "val"):
        for name in (f"nds_coco_2017_{split}", f"nds_coco_2017_{split}_annotated"):
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
    monkeypatch.setattr("nds_plugin.d2.data.store_source._told", set())
    monkeypatch.setattr("nds_plugin.d2.data.known_datasets._CLASS_METADATA", ())  # the classes are not COCO's
    register_all()
    return tmp_path


@pytest.mark.usefixtures("coco")
def test_stock_loaders_are_told_once_that_they_do_not_filter_and_by_which_name_they_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert [r["image_id"] for r in dataset_dicts("nds_coco_2017_train")] == [3, 12, 20]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    for _ in range(2):
        assert len(get_detection_dataset_dicts(["nds_coco_2017_train"])) == 3
    assert caplog.text.count("2 of its 3 images have no instance") == 1
    assert "train on 'nds_coco_2017_train_annotated', or with build_nds_train_loader" in caplog.text
    caplog.clear()
    assert len(get_detection_dataset_dicts(["nds_coco_2017_val"])) == 3
    annotated = get_detection_dataset_dicts(["nds_coco_2017_train_annotated"])
    assert [annotated[i]["image_id"] for i in range(len(annotated))] == [12]
    assert len(dataset_dicts("nds_coco_2017_train_annotated")) == 1
    assert dataset_classes("nds_coco_2017_train_annotated") == ["cat", "dog"]
    assert not MetadataCatalog.get("nds_coco_2017_train_annotated").get("json_file")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("coco")
def test_a_list_before_a_store_is_a_list_and_filtered_and_behind_it_is_not() -> None:
    list_of_dicts = [{**_plain()[0], "annotations": []}, *_plain()]
    with registered_temporarily("listed", lambda: list_of_dicts, thing_classes=["cat", "dog"]):
        first = get_detection_dataset_dicts(["listed", "nds_coco_2017_train"])
        assert isinstance(first, list)
        assert [r["image_id"] for r in first] == ["x", 12]
        last = get_detection_dataset_dicts(["nds_coco_2017_train", "listed"])
        assert len(last) == 5


def test_category_ids_that_differ_alone_are_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    ids = {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}}
    with (
        registered_temporarily("other_ids", json_file=str(path), **ids),
        pytest.raises(NDSError, match=r"numbers its categories 2, 5, but .* for the ids 1, 2 .*same classes"),
    ):
        dataset_dicts("other_ids")


def test_what_detectron2_registered_is_read_from_the_file_that_it_was_registered_with(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    register_coco_instances("stock", {}, path, tmp_path / "images")
    MetadataCatalog.get("stock").__dict__["json_file"] = "another.json"  # for evaluation, say
    assert isinstance(dataset_dicts("stock"), StoreDataset)
    assert dataset_dicts("stock")[0]["file_name"] == str(tmp_path / "images" / "a.jpg")


def test_extra_annotation_keys_of_a_changed_copy_are_kept(tmp_path: Path) -> None:
    content = document()
    for annotation in content["annotations"]:
        annotation["score"] = 0.5
    path = write_coco(tmp_path, content)

    def register_coco_instances(name: str, json_file: str, image_root: str) -> None:
        load = lambda: load_coco_json(json_file, image_root, name, extra_annotation_keys=["score"])  # noqa: E731
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root)

    register_coco_instances("downstream", str(path), "images")
    assert {a["score"] for r in dataset_dicts("downstream") for a in r["annotations"]} == {0.5}


def test_a_map_style_dataset_is_as_good_as_a_list() -> None:
    class Frames:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> dict[str, Any]:
            if i >= 3:
                raise IndexError
            return {**_plain()[0], "image_id": f"{i}"}

    with registered_temporarily("map", Frames, thing_classes=["a", "b"]):  # type: ignore[arg-type]
        assert index_dataset("map").column("image_id").tolist() == ["0", "1", "2"]


def test_a_dict_without_an_id_is_named() -> None:
    records = _plain()
    del records[0]["image_id"]
    anonymous = registered_temporarily("anonymous", lambda: records, thing_classes=["a", "b"])
    with anonymous, pytest.raises(NDSError, match="'anonymous': a dict lacks 'image_id' or 'file_name'"):
        index_dataset("anonymous")


def test_registering_reads_nothing_and_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    monkeypatch.delenv("NDS_DATA", raising=False)
    register_all()
    names = DatasetCatalog.list()
    register_all()
    assert DatasetCatalog.list() == names
    assert not (tmp_path / "none").exists()
    assert {"nds_cityscapes_fine_instance_train", "modanet_val", "openimages_v6_train"} <= set(names)
    assert {f"nds_sample_{domain}_{split}" for domain in DOMAINS for split in ("train", "val")} <= set(names)
    with pytest.raises(
        NDSError, match=r"modanet/annotations/modanet2018_instances_train.json is not there. Expected"
    ):
        dataset_dicts("modanet_train")
    with pytest.raises(NDSError, match=r"Cityscapes: .*leftImg8bit/train/CITY/\S+ is not there. Expected"):
        dataset_dicts("nds_cityscapes_fine_instance_train")


def test_another_root_replaces_our_datasets_but_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NDS_DATA", raising=False)
    for name in ("modanet_train", "modanet_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    DatasetCatalog.register("modanet_val", _plain)
    for root in ("a", "b"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / root))
        register_all()
    assert MetadataCatalog.get("modanet_train").image_root.startswith(str(tmp_path / "b"))
    assert DatasetCatalog["modanet_val"] is _plain


def test_a_folder_of_datasets_is_registered_by_file_names(tmp_path: Path) -> None:
    for name in ("train", "val", "train_other", "annotations"):
        write_coco(tmp_path / "zoo", document(), f"{name}.json")
    write_coco(tmp_path / "pictureless", document())
    write_image(tmp_path / "zoo" / "images" / "a.jpg")
    names = register_coco_folder(tmp_path, "mine")
    assert names == ["mine_zoo_train", "mine_zoo_other_train", "mine_zoo_val"]
    assert register_coco_folder(tmp_path, "mine") == names
    assert [record["image_id"] for record in dataset_dicts("mine_zoo_other_train")] == [3, 12, 20]
    assert dataset_dicts("mine_zoo_val")[0]["file_name"] == str(tmp_path / "zoo" / "images" / "a.jpg")
    with pytest.raises(NDSError, match="folder of datasets not found"):
        register_coco_folder(tmp_path / "none", "mine")
    with pytest.raises(NDSError, match=r"no datasets in .*expected NAME/images"):
        register_coco_folder(tmp_path / "zoo", "mine")


def test_a_stale_nds_data_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NDS_DATA", str(tmp_path / "gone"))
    register_all()
    assert "NDS_DATA: folder of datasets not found" in caplog.text


def test_cityscapes_are_read_by_our_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cityscapesscripts", reason="pip install --no-deps cityscapesscripts")
    from PIL import Image

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_all()
    ids = np.full((32, 64), 7, dtype=np.uint16)
    ids[4:20, 5:30], ids[6:9, 40:50] = 26001, 24
    for part, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", np.zeros((32, 64, 3), np.uint8)),
        ("gtFine", "gtFine_instanceIds", ids),
    ):
        path = tmp_path / "cityscapes" / part / "val" / "ulm" / f"ulm_000000_000019_{suffix}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    name = "nds_cityscapes_fine_instance_val"
    assert dataset_classes(name)[2] == "car"
    (record,) = get_detection_dataset_dicts(name, filter_empty=False)
    assert os.path.isfile(record["file_name"])
    assert record["image_id"] == "ulm_000000_000019"
    assert [(a["category_id"], a["iscrowd"], a["bbox"]) for a in record["annotations"]] == [
        (0, 1, [40.0, 6.0, 10.0, 3.0]),
        (2, 0, [5.0, 4.0, 25.0, 16.0]),
    ]
    assert index_dataset(name).column("label").tolist() == [2]
    assert MetadataCatalog.get(name).evaluator_type == "coco"


def test_the_sample_is_made_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nds_plugin.datasets.sample import generate as sample

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    original, calls = sample.generate, []

    def small(root: Path) -> None:  # the real generator, of fewer pictures
        calls.append(root)
        original(root, train_images=2, val_images=1)

    monkeypatch.setattr(sample, "generate", small)
    key = sample.sample_key(train_images=2, val_images=1)
    monkeypatch.setattr(sample, "sample_key", lambda: key)
    register_all()
    assert not calls
    first, second = list(DOMAINS)[:2]
    records = dataset_dicts(f"nds_sample_{first}_train")
    assert len(records) == 2
    assert all(os.path.isfile(record["file_name"]) for record in records)
    assert len(index_dataset(f"nds_sample_{second}_val")) == 1
    assert calls == [tmp_path / "nds_sample"]


def test_subsets_are_seeded_nested_and_keep_ids(tmp_path: Path) -> None:
    content = document()
    content["images"] += [
        {"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(100, 140)
    ]
    with registered_temporarily("base", json_file=str(write_coco(tmp_path, content)), image_root="images"):
        base = dataset_dicts("base")
        for name, count, seed in (("s10", 10, 1), ("s20", 20, 1), ("t20", 20, 2), ("all", 43, 3)):
            register_image_subset(name, "base", count, seed)
        ids = {name: [r["image_id"] for r in dataset_dicts(name)] for name in ("s10", "s20", "t20", "all")}
        assert [len(v) for v in ids.values()] == [10, 20, 20, 43]
        assert set(ids["s10"]) < set(ids["s20"])
        assert ids["s20"] != ids["t20"]
        assert ids["all"] == [record["image_id"] for record in base]
        assert ids["s20"] == sorted(ids["s20"])
        by_id = {record["image_id"]: record for record in base}
        assert all(record == by_id[record["image_id"]] for record in dataset_dicts("t20"))
        assert dataset_classes("s10") == ["cat", "dog"]
        metadata = MetadataCatalog.get("s10")
        assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}
        assert metadata.get("json_file") is None  # the whole base would be evaluated against
        assert index_dataset("s10").sources == ["s10"]
        assert index_dataset("s10").column("image_id").tolist() == [str(i) for i in ids["s10"]]


def test_a_subset_depends_on_ids_and_not_on_their_order() -> None:
    records = [{**_plain()[0], "image_id": f"i{i:02d}"} for i in range(30)]
    drawn = []
    for order in (records, records[::-1]):
        with registered_temporarily("base", lambda order=order: order, thing_classes=["a", "b"]):
            register_image_subset("sub", "base", 7, 0)
            drawn.append({record["image_id"] for record in dataset_dicts("sub")})
    assert drawn[0] == drawn[1]


def test_bad_subsets_have_their_line() -> None:
    with registered_temporarily("base", _plain, thing_classes=["a", "b"]):
        with pytest.raises(NDSError, match="expected images > 0 and seed >= 0, got 0 and 0"):
            register_image_subset("sub", "base", 0)
        with pytest.raises(NDSError, match="got 3 and -1"):
            register_image_subset("sub", "base", 3, -1)
        with pytest.raises(UnknownNameError, match="unknown dataset 'bas'"):
            register_image_subset("sub", "bas", 3)
        with pytest.raises(NDSError, match="'base' is registered already"):
            register_image_subset("base", "base", 3)
        register_image_subset("sub", "base", 2)
        with pytest.raises(NDSError, match="expected at most the 1 images of 'base', got 2"):
            dataset_dicts("sub")
        register_image_subset("sub", "base", 1)
        register_image_subset("sub", "base", 1)
        assert len(dataset_dicts("sub")) == 1


def test_temporary_names_are_refused_twice_and_gone_after_an_error() -> None:
    taken = pytest.raises(NDSError, match="'tmp' is registered already")
    with taken, registered_temporarily("tmp", _plain), registered_temporarily("tmp", _plain):
        pass
    assert "tmp" not in DatasetCatalog
    assert "tmp" not in MetadataCatalog
    with pytest.raises(NDSError, match="either a function or json_file"), registered_temporarily("tmp"):
        pass


def test_every_real_dataset_loads_as_in_detectron2(nds_data: Path) -> None:
    register_all()
    names = [name for name in DatasetCatalog.list() if name.startswith("nds_data_")]
    files = len(list((nds_data / "detection").glob("*/*.json")))
    folders = len([f for f in (nds_data / "detection").iterdir() if f.is_dir()])
    assert len(names) == files - folders  # all but annotations.json
    assert "nds_data_ccp_modanet13_train" in names
    for name in names:
        records, index = dataset_dicts(name), index_dataset(name)
        metadata = MetadataCatalog.get(name)
        assert list(records) == load_coco_json(metadata.json_file, metadata.image_root, name)
        assert len(records) == len(json.loads(Path(metadata.json_file).read_text())["images"])
        assert index.column("image_id").tolist() == [str(record["image_id"]) for record in records]
        assert all(os.path.isfile(record["file_name"]) for record in records[:3])
        assert list(index.classes) == dataset_classes(name)


def test_every_config_names_datasets_that_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from nds_plugin.d2.config.nodes import load_config
    from nds_plugin.files.installed import config_folder

    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    register_all()
    known = set(DatasetCatalog.list())
    for path in config_folder("detectron2").glob("*.yaml"):
        cfg = load_config(str(path))
        names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.NDS.SOURCE.DATASETS}
        assert {n for n in names if not n.startswith("nds_data_")} <= known, path
