"""What a main job refuses before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.job.checks import check_config, check_source_files
from nds_plugin.d2.job.main_job import select_only, selection_steps
from nds_plugin.errors import NDSError
from nds_plugin.job.selection_summary import Timings

pytestmark = pytest.mark.usefixtures("tiny_datasets")


def config(folder: Path, *options: Any) -> CfgNode:
    mine = [
        *("OUTPUT_DIR", str(folder), "NDS.WORK_DIR", str(folder), "NDS.TARGET.NUM_IMAGES", "0"),
        *("DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"),
        *("NDS.SOURCE.DATASETS", "('tiny_street_train', 'tiny_room_train')", "MODEL.DEVICE", "cpu"),
    ]
    return load_config("nds_sample.yaml", [*mine, *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "RetinaNet: this job trains GeneralizedRCNN and what"),
        (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON is on, but keypoints are not supported"),
        (["MODEL.LOAD_PROPOSALS", "True"], "MODEL.LOAD_PROPOSALS is on, but proposals from files are not"),
        (
            ["DATASETS.TEST", "('tiny_city_val', 'tiny_city_val')"],
            "DATASETS.TEST names tiny_city_val more than once",
        ),
        (
            ["NDS.TARGET.DATASETS", "('tiny_city_val', 'tiny_city_val')"],
            "NDS.TARGET.DATASETS names tiny_city_val more",
        ),
        (
            ["NDS.LABEL_SPACES", "[[0], [1]]", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
            "NDS.LABEL_SPACES: .* MODEL.ROI_HEADS.NAME StandardROIHeads .* set NDSROIHeads",
        ),
    ],
)
def test_a_config_is_refused_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(NDSError, match=message) as error:
        check_config(config(tmp_path, *options))
    assert "\n" not in str(error.value)


def test_select_only_needs_a_selector(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="--select-only: the selector is none, which selects nothing"):
        select_only(config(tmp_path, "NDS.SELECTOR", "none"))


def test_images_that_training_takes_twice_are_scored_once(tmp_path: Path) -> None:
    twice = config(tmp_path, "DATASETS.TRAIN", "('tiny_city_train', 'tiny_city_train')")
    assert selection_steps(twice, Timings()).settings.targets == ("tiny_city_train",)


def test_a_detector_derived_from_r_cnn_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type("MineRCNN", (GeneralizedRCNN,), {})
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "MineRCNN", mine)
    check_config(config(tmp_path, "MODEL.META_ARCHITECTURE", "MineRCNN"))


def test_sources_of_other_classes_need_heads_that_know_label_spaces(tmp_path: Path) -> None:
    check_source_files(config(tmp_path))
    with pytest.raises(NDSError, match="the sources .*tiny_street_train.* set NDSROIHeads"):
        check_source_files(config(tmp_path, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"))
