"""Selections as registered datasets: their names, label spaces and fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from loader_batches import DATASET, SOURCES, drawn_selection
from tiny_detector import tiny_config

from nds_plugin.d2 import register_selection, register_selections_folder
from nds_plugin.d2.data.fingerprints import dataset_fingerprint
from nds_plugin.d2.data.host import RegisteredDataset
from nds_plugin.d2.data.registration import (
    dataset_classes,
    dataset_dicts,
    register_image_subset,
    registered_temporarily,
)
from nds_plugin.errors import NDSError

pytestmark = pytest.mark.usefixtures("tiny_datasets")


def test_the_heads_of_ones_own_script_learn_the_label_spaces_of_a_drawn_dataset(tmp_path: Path) -> None:
    drawn_selection(tmp_path)
    cfg = tiny_config(len(dataset_classes(DATASET)))
    assert cfg.NDS.LABEL_SPACES == []
    for names, rows in (((DATASET,), 2), (SOURCES[:1], 0)):
        cfg.DATASETS.TRAIN = names
        predictor = build_model(cfg).roi_heads.box_predictor
        assert getattr(predictor, "num_label_spaces", 0) == rows
    drawn_selection(tmp_path, sources=SOURCES[:1])  # labels alike: the model may have other classes, too
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES = (DATASET,), 7
    predictor = build_model(cfg).roi_heads.box_predictor
    assert predictor.num_label_spaces == 1
    assert predictor.label_spaces is None


def test_a_selection_takes_no_other_datasets_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "nds_selections"
    folder.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = Path(drawn_selection(tmp_path))
    path.rename(folder / "mine.parquet")
    DatasetCatalog.register("nds_mine", list)  # of somebody who sets no metadata
    try:
        with pytest.raises(NDSError, match="'nds_mine' is there already: give the selection another name"):
            register_selection(folder / "mine.parquet", "nds_mine")
        assert register_selections_folder() == []
        assert "mine.parquet: a dataset 'nds_mine' is there already" in caplog.text
        assert DatasetCatalog["nds_mine"] is list
    finally:
        DatasetCatalog.remove("nds_mine")
    register_selections_folder()
    MetadataCatalog.pop("nds_mine")
    try:
        assert register_selections_folder() == ["nds_mine"]
    finally:
        for name in ("nds_mine", "nds_mine_annotated"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_a_fingerprint_is_of_the_draw_and_the_sources_and_not_of_where_they_lie(
    tmp_path: Path, tiny_datasets: Path
) -> None:
    seen = []
    for place in (tiny_datasets / "street", tmp_path / "moved"):
        if not place.exists():
            shutil.copytree(tiny_datasets / "street", place)
        files = {"json_file": str(place / "train.json"), "image_root": str(place / "images")}
        with registered_temporarily("moving_train", **files):
            drawn_selection(tmp_path, "subset", ("moving_train",))
            register_image_subset("moving_few", "moving_train", 5)
            seen.append(
                [dataset_fingerprint(name) for name in (DATASET, "moving_few", f"{DATASET}_annotated")]
            )
            DatasetCatalog.remove("moving_few")
            MetadataCatalog.remove("moving_few")
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"*": {}}))
    drawn_selection(tmp_path)
    before = dataset_fingerprint(DATASET)
    register_selection(tmp_path / "stream.parquet", DATASET, str(mapping))
    assert len({before, dataset_fingerprint(DATASET), *seen[0]}) == 5


@pytest.mark.parametrize("name", [DATASET, f"{DATASET}_annotated", "tiny_city_train"])
def test_the_boxes_of_a_store_are_those_of_its_records(tmp_path: Path, name: str) -> None:
    drawn_selection(tmp_path)
    stored = RegisteredDataset(name).boxes()
    records = list(dataset_dicts(name))
    with registered_temporarily("as_a_list", lambda: records):
        listed = RegisteredDataset("as_a_list").boxes()
    own = [name if source == "as_a_list" else source for source in listed.sources]
    assert (stored.sources, stored.image_ids) == (own, listed.image_ids)
    assert np.array_equal(stored.xywh, listed.xywh)
    assert np.array_equal(stored.labels, listed.labels)


def test_a_selection_can_be_drawn_again_from_another_source(tmp_path: Path) -> None:
    names = ("drawn_again", "drawn_again_annotated")
    try:
        for source in SOURCES:
            Path(drawn_selection(tmp_path, "subset", (source,))).replace(tmp_path / "again.parquet")
            if source == SOURCES[0]:
                register_selection(tmp_path / "again.parquet", names[0])
            for name in names:
                DatasetCatalog.get(name)
                assert MetadataCatalog.get(name).thing_classes == dataset_classes(source)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
