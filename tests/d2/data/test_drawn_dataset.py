"""Selections as registered datasets: their names, label spaces and fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from loader_batches import DATASET, SOURCES, drawn_selection
from tiny_detector import tiny_config

from nds_plugin.d2 import register_selection, register_selections_folder
from nds_plugin.d2.data.registration import dataset_classes
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
