"""Keys of the training stages: all that decides the result, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import document, write_coco

from nds_plugin.d2 import load_config
from nds_plugin.d2.data.registration import registered_temporarily
from nds_plugin.d2.job.main_job import _source_labels
from nds_plugin.d2.train.stages import training_key

CONFIG = "nds_sample.yaml"


@pytest.mark.parametrize(
    "override",
    [
        ("DATASETS.TEST", "('another',)"),
        ("TEST.DETECTIONS_PER_IMAGE", "7"),
        ("NDS.LOADER.MAX_UNREADABLE", "0.5"),
        ("NDS.TRANSFER.LOOSE_NAMES", "True"),
        ("DATALOADER.NUM_WORKERS", "0"),
    ],
)
def test_what_does_not_change_the_weights_does_not_change_the_key(override: tuple[str, str]) -> None:
    assert training_key(load_config(CONFIG, list(override)), []) == training_key(load_config(CONFIG), [])


@pytest.mark.parametrize("override", [("SOLVER.BASE_LR", "0.5"), ("NDS.SEED", "3"), ("SEED", "3")])
def test_what_changes_the_weights_changes_the_key(override: tuple[str, str]) -> None:
    assert training_key(load_config(CONFIG, list(override)), []) != training_key(load_config(CONFIG), [])


@pytest.mark.parametrize("name", ["MODEL.WEIGHTS", "NDS.SOURCE.LABEL_MAPPING", "NDS.PARTITION.WEIGHTS"])
def test_where_a_file_lies_does_not_change_the_key(name: str, tmp_path: Path) -> None:
    keys = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("{}")
        keys.add(training_key(load_config(CONFIG, [name, str(tmp_path / folder / "file")]), ["its hash"]))
    assert len(keys) == 1


def test_changed_annotations_or_another_mapping_of_the_source_are_noticed(tmp_path: Path) -> None:
    annotations, mapping = tmp_path / "a.json", tmp_path / "mapping.json"
    write_coco(tmp_path, document(), annotations.name)
    mapping.write_text("{}")
    with registered_temporarily("labels_of_a_source", json_file=str(annotations), image_root=str(tmp_path)):
        overrides = [
            "NDS.SOURCE.DATASETS",
            "('labels_of_a_source',)",
            "NDS.SOURCE.LABEL_MAPPING",
            str(mapping),
        ]
        cfg = load_config(CONFIG, overrides)
        found = [_source_labels(cfg)]
        annotations.write_text(annotations.read_text() + " ")
        found.append(_source_labels(cfg))
        mapping.write_text('{"changed": 1}')
        found.append(_source_labels(cfg))
    assert len(set(found)) == 3
