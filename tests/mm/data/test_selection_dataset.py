"""A drawn subset as a dataset of MMDetection, and stores in place of lists of dicts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from loader_batches import DATASET, SOURCES, drawn_selection
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, DefaultScope
from tiny_mmdet import Numbers, coco, joined

from nds_plugin.errors import NDSError
from nds_plugin.mm.data.selection_dataset import NDSSelection
from nds_plugin.selection.selection import Selection


@pytest.fixture(scope="module")
def subset(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return drawn_selection(tmp_path_factory.mktemp("subset"), "subset")


def test_it_holds_what_was_drawn_in_the_joined_classes_as_in_detectron2(
    tiny_datasets: Path, tmp_path: Path
) -> None:
    path = drawn_selection(tmp_path, "subset")
    ours, theirs = DATASETS.build(joined(tiny_datasets, path)), DatasetCatalog.get(DATASET)
    assert len(ours) == len(theirs) == 20
    assert ours.metainfo["nds_sources"] == list(SOURCES)
    by_file, names = {d["file_name"]: d for d in theirs}, MetadataCatalog.get(DATASET).thing_classes
    for i in range(len(ours)):
        info = ours.get_data_info(i)
        record = by_file.pop(info["img_path"])
        assert (info["nds_source"], info["label_space"]) == (record["nds_source"], record["label_space"])
        xywh = [[a, b, c - a, d - b] for a, b, c, d in (instance["bbox"] for instance in info["instances"])]
        assert xywh == [annotation["bbox"] for annotation in record["annotations"]]
        labels = [ours.metainfo["classes"][instance["bbox_label"]] for instance in info["instances"]]
        assert labels == [names[annotation["category_id"]] for annotation in record["annotations"]]
    assert not by_file


def test_every_image_passes_the_pipeline_of_its_own_dataset(tiny_datasets: Path, subset: str) -> None:
    parts = [coco(tiny_datasets, domain) for domain in ("street", "room")]
    parts[1]["pipeline"] = [
        *parts[1]["pipeline"][:-1],
        {"type": "PackDetInputs", "meta_keys": ("img_id", "ori_shape")},
    ]
    dataset = NDSSelection(parts, subset)
    for i in (0, len(dataset) - 1):
        street = dataset.get_data_info(i)["nds_source"] == "tiny_street_train"
        assert ("img_path" in dataset[i]["data_samples"]) == street


def test_a_mapping_drops_classes_and_the_images_that_lose_all_objects(
    tiny_datasets: Path, subset: str, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.json"
    mapping.write_text('{"tiny_room_train": {"lamp": null, "table": null, "chair": null, "person": null}}')
    street = Selection.load(subset).column("source").to_pylist().count("tiny_street_train")
    dataset = DATASETS.build(joined(tiny_datasets, subset, label_mapping=str(mapping)))
    assert 0 < street <= len(dataset) < 20
    assert all(dataset.get_data_info(i)["instances"] for i in range(len(dataset)))


def test_a_store_gives_what_cocodataset_gives(tiny_datasets: Path) -> None:
    stock = DATASETS.build(coco(tiny_datasets, "street"))
    ours = DATASETS.build(coco(tiny_datasets, "street", kind="NDSStoreDataset"))
    assert [ours.get_data_info(i) for i in range(len(ours))] == [
        stock.get_data_info(i) for i in range(len(stock))
    ]
    assert ours.get_data_info(-1) == stock.get_data_info(len(stock) - 1)
    assert ours.get_cat_ids(0) == stock.get_cat_ids(0)
    assert ours.metainfo == {name: stock.metainfo[name] for name in ("classes", "nds_source")}


def test_a_store_takes_some_classes_in_an_order_and_leaves_out_images_without_any(
    tiny_datasets: Path,
) -> None:
    meta = {"classes": ("person", "car"), "nds_source": ["tiny_street_train"]}
    filtered = {"metainfo": meta, "filter_cfg": {"filter_empty_gt": True, "min_size": 8}}
    stock = DATASETS.build({**coco(tiny_datasets, "street"), **filtered})
    ours = DATASETS.build({**coco(tiny_datasets, "street", kind="NDSStoreDataset"), **filtered})
    assert [ours.get_data_info(i)["img_id"] for i in range(len(ours))] == [
        stock.get_data_info(i)["img_id"] for i in range(len(stock))
    ]
    labels = {
        instance["bbox_label"] for i in range(len(ours)) for instance in ours.get_data_info(i)["instances"]
    }
    assert labels == {0, 1}


def test_a_store_travels_as_a_path_and_joins_others(tiny_datasets: Path) -> None:
    ours = DATASETS.build(coco(tiny_datasets, "street", kind="NDSStoreDataset"))
    sent = pickle.dumps(ours)
    assert len(sent) < 5000
    assert pickle.loads(sent).get_data_info(3) == ours.get_data_info(3)
    assert len(ConcatDataset([ours, ours])) == 2 * len(ours)
    with pytest.raises(NDSError, match="has no subsets by position"):
        ours.get_subset_(3)


def refused(match: str, dataset: Any, selection: str, **more: Any) -> None:
    with pytest.raises(NDSError, match=match) as error:
        NDSSelection(dataset, selection, **more)
    assert "\n" not in str(error.value)


def test_what_does_not_belong_to_the_selection_is_refused_in_one_line(
    tiny_datasets: Path, subset: str
) -> None:
    street, room, city = (coco(tiny_datasets, domain) for domain in ("street", "room", "city"))
    refused("no dataset is called 'tiny_room_train'", street, subset)
    refused("unknown source of the selection 'tiny_city_train'", [street, city], subset)
    refused("expected a name for each of the 2 datasets", [street, room], subset, source_names=["one"])
    refused("source_names must differ", [street, street], subset)
    other_name = {"dataset": [street, room], "source_names": ["tiny_room_train", "tiny_street_train"]}
    refused("the dataset that is named 'tiny_room_train' says that its images are of tiny_street_train",
            selection=subset, **other_name)  # fmt: skip
    twice = {"type": "ConcatDataset", "datasets": [street, street]}
    refused("images are in the dataset more than once", [twice, room], subset, source_names=list(SOURCES))
    unnamed = {**street, "metainfo": {"classes": ("car",)}}
    refused("say which dataset is which", [unnamed, room], subset)
    refused("NumbersWithoutClasses has no classes in its metainfo", [NumbersWithoutClasses(3), room], subset,
            source_names=list(SOURCES))  # fmt: skip


def test_coco_files_whose_classes_are_named_in_another_order_are_refused(
    tiny_datasets: Path, subset: str
) -> None:
    room, street = coco(tiny_datasets, "room"), coco(tiny_datasets, "street")
    classes = street["metainfo"]["classes"]
    for named in (classes[::-1], ("tree house", *classes)):
        other = {**street, "metainfo": {**street["metainfo"], "classes": named}}
        refused(
            f"street/train.json does, from 0 on {classes[0]}, .*names them {named[0]}, ",
            [other, room],
            subset,
        )


def test_a_coco_file_may_lack_the_last_classes_and_be_stranger_than_a_store_takes(
    tiny_datasets: Path, subset: str, tmp_path: Path
) -> None:
    room, street = coco(tiny_datasets, "room"), coco(tiny_datasets, "street")
    document = json.loads(Path(street["ann_file"]).read_text())
    strange = {
        **document["annotations"][0],
        "id": 10**6,
        "area": 0,
        "bbox": [0, 0, 1, 1],
        "segmentation": "none",
    }
    document = {"categories": document["categories"], **document}
    document["annotations"] = [*document["annotations"], strange]
    street["ann_file"] = str(tmp_path / "strange.json")
    Path(street["ann_file"]).write_text(json.dumps(document))
    named = (*street["metainfo"]["classes"], "tree house")
    street["metainfo"] = {**street["metainfo"], "classes": named}
    dataset = NDSSelection([street, room], subset)
    assert "tree house" in dataset.metainfo["classes"]
    assert [path.name for path in tmp_path.iterdir()] == ["strange.json"], "no store was made"


def test_parts_that_mmdetections_concatdataset_joins_may_differ_in_what_is_not_the_draws(
    tiny_datasets: Path, subset: str
) -> None:
    room, street = coco(tiny_datasets, "room"), coco(tiny_datasets, "street")
    colours = [(1, 2, 3)] * len(street["metainfo"]["classes"])
    halves = [
        {**street, "indices": [*range(12)]},
        {**street, "indices": [*range(12, 24)], "metainfo": {**street["metainfo"], "palette": colours}},
    ]
    dataset = NDSSelection([{"type": "mmdet.ConcatDataset", "datasets": halves}, room], subset)
    assert isinstance(dataset.parts[0].metainfo, list)
    assert [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))] == [
        one["img_path"]
        for one in map(NDSSelection([street, room], subset).get_data_info, range(len(dataset)))
    ]


def test_a_part_without_a_pipeline_of_one_image_is_refused(tiny_datasets: Path, subset: str) -> None:
    room, street = coco(tiny_datasets, "room"), coco(tiny_datasets, "street")
    mixed = {"type": "MultiImageMixDataset", "dataset": street, "pipeline": [{"type": "PackDetInputs"}]}
    refused("MultiImageMixDataset has no pipeline that makes an example of one image", [mixed, room], subset)


def test_a_store_takes_cocodatasets_place_in_a_stock_config(tiny_datasets: Path) -> None:
    import mmdet

    base = Path(mmdet.__file__).parent / ".mim/configs/_base_/datasets/coco_instance.py"
    stock = Config.fromfile(base).train_dataloader.dataset
    of_files = coco(tiny_datasets, "street")
    stock.update({key: of_files[key] for key in ("ann_file", "data_prefix", "metainfo")}, data_root="")
    assert stock.type == "CocoDataset"
    found = DATASETS.build({**stock, "type": "NDSStoreDataset"})
    assert len(found) == len(DATASETS.build(stock))
    for change in ({"backend_args": {"backend": "petrel"}}, {"indices": 3}):
        with pytest.raises(NDSError, match=f"NDSStoreDataset .*{next(iter(change))}"):
            DATASETS.build({**stock, "type": "NDSStoreDataset", **change})


class NumbersWithoutClasses(Numbers):
    @property
    def metainfo(self) -> dict[str, Any]:
        return {}


def test_an_unknown_dataset_and_one_of_another_scope_are_told_apart(tiny_datasets: Path, subset: str) -> None:
    street, room = (coco(tiny_datasets, domain) for domain in ("street", "room"))
    refused(
        "unknown dataset type 'CocoDatasett'.*Did you mean .CocoDataset",
        [{**street, "type": "CocoDatasett"}, room],
        subset,
    )
    with DefaultScope.overwrite_default_scope("mmengine"):
        refused("write type='mmdet.CocoDataset', or set default_scope = 'mmdet'", [street, room], subset)


def test_a_store_dataset_says_what_is_wrong_with_its_config(tiny_datasets: Path, tmp_path: Path) -> None:
    for change, match in (
        ({"ann_file": str(tmp_path / "none.json")}, "annotation file not found: .*none.json"),
        ({"filter_cfg": {"filter_empty": True}}, "unknown filter_cfg of NDSStoreDataset 'filter_empty'"),
        ({"metainfo": {"classes": ("carr",)}}, "unknown class of .*train.json 'carr'. Did you mean 'car'"),
    ):
        with pytest.raises(NDSError, match=match):
            DATASETS.build({**coco(tiny_datasets, "street", kind="NDSStoreDataset"), **change})
