"""Stores as Detectron2 datasets: stock code takes them for the lists that they stand for."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import document, write_coco, write_image
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)

from nds_plugin.d2.data.drawn_dataset import register_selection
from nds_plugin.d2.data.registration import (
    dataset_dicts,
    index_dataset,
    register_image_subset,
    registered_temporarily,
)
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.uniform import Uniform
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

STREET, ROOM = "tiny_street_train", "tiny_room_train"


def _stored(name: str) -> StoreDataset:
    dicts = dataset_dicts(name)
    assert isinstance(dicts, StoreDataset)
    return dicts


@pytest.mark.usefixtures("tiny_datasets")
def test_it_reads_as_a_list() -> None:
    dicts = _stored(STREET)
    records = list(dicts)
    assert isinstance(dicts, Sequence)
    assert len(records) == len(dicts) == 24
    assert dicts[-1] == records[-1] == dicts[np.int64(23)]
    assert dicts[3:20:5] == records[3:20:5]
    assert list(reversed(dicts)) == records[::-1]
    assert dicts.index(records[5]) == 5
    for beyond in (24, -25):
        with pytest.raises(IndexError):
            dicts[beyond]
    dicts[0]["annotations"].clear()
    assert dicts[0] == records[0], "a record is made anew each time"


@pytest.mark.usefixtures("tiny_datasets")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_stock_training_loader_gives_the_batches_of_the_list(workers: int) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.INPUT.RANDOM_FLIP = "none"
    mapper = DatasetMapper(cfg, is_train=True)
    dicts = _stored(STREET)
    batches = []
    for dataset in (dicts, list(dicts)):
        torch.manual_seed(0)
        sampler = torch.utils.data.SequentialSampler(dataset)  # type: ignore[arg-type]
        loader = build_detection_train_loader(
            dataset, mapper=mapper, sampler=sampler, total_batch_size=2, num_workers=workers,
            aspect_ratio_grouping=False,
        )  # fmt: skip
        batches.append(list(itertools.islice(loader, 6)))
    for stored, listed in zip(*(itertools.chain(*part) for part in batches), strict=True):
        assert stored["file_name"] == listed["file_name"]
        assert torch.equal(stored["image"], listed["image"])
        assert torch.equal(stored["instances"].gt_boxes.tensor, listed["instances"].gt_boxes.tensor)


@pytest.mark.usefixtures("tiny_datasets")
def test_the_stock_test_loader_and_catalog_take_it() -> None:
    assert len(get_detection_dataset_dicts([STREET], filter_empty=False)) == 24
    assert len(get_detection_dataset_dicts([STREET, ROOM], filter_empty=False)) == 48
    cfg = get_cfg()
    loader = build_detection_test_loader(
        DatasetCatalog.get(STREET), mapper=DatasetMapper(cfg, is_train=False)
    )
    assert len(loader) == 24
    assert next(iter(loader))[0]["image_id"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_datasets")
def test_it_goes_to_a_spawned_worker_as_a_path() -> None:
    dicts = _stored(STREET)
    assert len(pickle.dumps(dicts)) < 5000
    loader = torch.utils.data.DataLoader(
        dicts, num_workers=1, batch_size=None, multiprocessing_context="spawn"
    )
    assert next(iter(loader))["file_name"] == dicts[0]["file_name"]


def test_filtering_keeps_what_detectron2_keeps(tmp_path: Path) -> None:
    from detectron2.data.build import filter_images_with_only_crowd_annotations

    with registered_temporarily("x", json_file=str(write_coco(tmp_path, document()))):
        dicts = _stored("x")
        expected = filter_images_with_only_crowd_annotations(list(dicts))
        assert list(dicts.annotated()) == expected
        assert dicts.annotated().image_ids().to_pylist() == [str(r["image_id"]) for r in expected]


@pytest.mark.usefixtures("tiny_datasets")
def test_a_selection_of_two_sources_decodes_its_own_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = SourceIndex.join([index_dataset(name) for name in (STREET, ROOM)])
    selection = select(index, Partition.whole(index), SelectionConfig(Uniform(), count=9))
    selection.save(tmp_path / "s.parquet", "key")
    name = "store_dataset_selection"
    register_selection(tmp_path / "s.parquet", name)
    decoded: list[int] = []
    real = StoreDataset.__getitem__
    monkeypatch.setattr(StoreDataset, "__getitem__", lambda self, i: decoded.append(i) or real(self, i))
    try:
        dicts: Any = DatasetCatalog.get(name)
        assert decoded == []
        assert len(dicts) == 9
        drawn = selection.column("source").to_pylist(), selection.column("image_id").to_pylist()
        assert {(r["nds_source"], str(r["image_id"])) for r in dicts} == set(zip(*drawn))
        assert decoded == list(range(9))
        assert dicts.class_counts(len(MetadataCatalog.get(name).thing_classes)).sum() == sum(
            len(r["annotations"]) for r in dicts
        )
        united = MetadataCatalog.get(name).thing_classes
        for record in dicts:
            (original,) = [r for r in _stored(record["nds_source"]) if r["image_id"] == record["image_id"]]
            own = MetadataCatalog.get(record["nds_source"]).thing_classes
            names = [own[a["category_id"]] for a in original["annotations"]]
            assert [united[a["category_id"]] for a in record["annotations"]] == names
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.usefixtures("tiny_datasets")
def test_a_random_subset_stays_a_store() -> None:
    name = "store_dataset_subset"
    register_image_subset(name, STREET, 7, seed=1)
    try:
        dicts: Any = DatasetCatalog.get(name)
        assert isinstance(dicts, StoreDataset)
        assert len(dicts) == 7
        everything = [record["image_id"] for record in _stored(STREET)]
        assert [record["image_id"] for record in dicts] == [
            i for i in everything if str(i) in set(dicts.image_ids().to_pylist())
        ]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_images_are_found_where_a_stock_registration_says(tmp_path: Path) -> None:
    from detectron2.data.datasets import register_coco_instances

    write_image(tmp_path / "photos" / "a.jpg", 60, 40)
    name = "store_dataset_stock"
    register_coco_instances(name, {}, str(write_coco(tmp_path, document())), str(tmp_path / "photos"))
    try:
        assert _stored(name)[0]["file_name"] == str(tmp_path / "photos" / "a.jpg")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
