"""Keys of the training stages: all that decides the result, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import document, write_coco

from nds_plugin.d2 import load_config
from nds_plugin.d2.data.host import DetectronHost
from nds_plugin.d2.data.registration import registered_temporarily
from nds_plugin.d2.job.main_job import selection_steps
from nds_plugin.d2.train.stages import finetune_config, pretrain_config, training_key
from nds_plugin.job.kept_pretraining import source_labels
from nds_plugin.job.selection_summary import Timings

CONFIG = "nds_sample.yaml"


@pytest.mark.parametrize(
    "override",
    [
        ("DATASETS.TEST", "('another',)"),
        ("TEST.DETECTIONS_PER_IMAGE", "7"),
        ("NDS.LOADER.MAX_UNREADABLE", "0.5"),
        ("NDS.TRANSFER.LOOSE_NAMES", "True"),
        ("DATALOADER.NUM_WORKERS", "0"),
        # What decides the selection, which is an input.
        ("NDS.SELECTOR", "uniform"),
        ("NDS.EXPERTS.STEPS", "9"),
        ("NDS.PARTITION.NUM_CLUSTERS", "3"),
        ("NDS.SCORING.METRIC", "log_likelihood"),
        ("NDS.TEMPERATURE", "0.7"),
        ("NDS.BUDGET.SHARE", "0.3"),
        ("NDS.MODE", "stream"),
        ("NDS.TARGET.NUM_IMAGES", "7"),  # fine-tuning has the draw in the name of its dataset
    ],
)
def test_what_does_not_change_the_weights_does_not_change_the_key(override: tuple[str, str]) -> None:
    assert training_key(load_config(CONFIG, list(override)), []) == training_key(load_config(CONFIG), [])


@pytest.mark.parametrize(
    "override",
    [
        *(("SOLVER.BASE_LR", "0.5"), ("NDS.SEED", "3"), ("SEED", "3"), ("NDS.OPTIMIZER", "SGD")),
        *(
            ("NDS.LABEL_SPACES", "[[0], [1]]"),
            ("NDS.RESCORE.ITERS", "(4,)"),
            ("DATASETS.TRAIN", "('other',)"),
        ),
        ("MODEL.WEIGHTS", "other"),
    ],
)
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
        source = cfg.NDS.SOURCE

        def labels() -> str:
            return source_labels(DetectronHost(), source.DATASETS, source.LABEL_MAPPING)

        found = [labels()]
        annotations.write_text(annotations.read_text() + " ")
        found.append(labels())
        mapping.write_text('{"changed": 1}')
        found.append(labels())
    assert len(set(found)) == 3


UNIFORM = [
    *("NDS.SOURCE.DATASETS", "('tiny_street_train', 'tiny_room_train')", "NDS.BUDGET.SHARE", "0.5"),
    *("DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"),
    *("NDS.SELECTOR", "uniform", "NDS.TARGET.NUM_IMAGES", "6"),
]


def _uniform_keys(work: Path, *override: str) -> tuple[str, str, str]:
    """Keys of the selection, of pretraining and of fine-tuning of a uniform run."""
    cfg = load_config(CONFIG, [*UNIFORM, "NDS.WORK_DIR", str(work), *override])
    selected = selection_steps(cfg, Timings()).run()
    pretraining = training_key(pretrain_config(cfg, selected), [selected.key])
    return selected.key, pretraining, training_key(finetune_config(cfg), [pretraining])


def test_a_uniform_run_is_not_made_again_for_settings_of_others(tiny_datasets: Path, tmp_path: Path) -> None:
    others = [
        *("NDS.EXPERTS.STEPS", "9", "NDS.EXPERTS.SHARED_STEPS", "9", "NDS.TEMPERATURE", "0.7"),
        *(
            "NDS.PARTITION.NUM_CLUSTERS",
            "3",
            "NDS.SCORING.METRIC",
            "log_likelihood",
            "NDS.KNN.NEIGHBOURS",
            "3",
        ),
        *("NDS.UNIT", "object", "NDS.NORMALISATION", "none", "NDS.EVALUATE_PRETRAINED", "True"),
    ]
    assert _uniform_keys(tmp_path, *others) == _uniform_keys(tmp_path)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        (("NDS.BUDGET.SHARE", "0.4"), (True, True, True)),
        (("NDS.SEED", "3"), (True, True, True)),
        (("NDS.MODE", "stream"), (True, True, True)),
        (("NDS.PRETRAIN.SOLVER.MAX_ITER", "151"), (False, True, True)),
        (("NDS.OPTIMIZER", "SGD"), (False, True, True)),
        (("NDS.TARGET.NUM_IMAGES", "5"), (False, False, True)),
        (("SOLVER.MAX_ITER", "76"), (False, False, True)),
    ],
)
def test_what_decides_a_step_of_a_uniform_run_changes_its_key_and_those_after_it(
    override: tuple[str, str], changed: tuple[bool, ...], tiny_datasets: Path, tmp_path: Path
) -> None:
    usual, other = _uniform_keys(tmp_path), _uniform_keys(tmp_path, *override)
    assert tuple(a != b for a, b in zip(usual, other)) == changed
