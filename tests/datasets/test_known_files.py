"""COCO files by name: those of a folder of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import document, write_coco

from nds_plugin.datasets.known_files import known_coco_files
from nds_plugin.errors import NDSError
from nds_plugin.pipeline.files_host import FilesHost


def test_two_files_of_one_name_are_refused_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("shop", "train_mini.json"), ("shop_mini", "train.json"), ("street", "train.json")):
        write_coco(tmp_path / "detection" / folder, document(), name)
        (tmp_path / "detection" / folder / "images").mkdir()
    monkeypatch.setenv("NDS_DATA", str(tmp_path))
    with pytest.raises(
        NDSError,
        match=r"shop/train_mini\.json and .*shop_mini/train\.json would both be the dataset 'nds_data_.*: rename",
    ):
        FilesHost().dataset("nds_data_shop_mini_train")
    own = [file.name for file in known_coco_files() if file.name.startswith("nds_data_")]
    assert own == ["nds_data_street_train"]
