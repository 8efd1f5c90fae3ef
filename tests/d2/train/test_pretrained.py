"""Laws of testing the pretrained detector on the target before fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances

from nds_plugin.d2.data.registration import dataset_classes, dataset_dicts
from nds_plugin.d2.train.evaluation import build_evaluator
from nds_plugin.d2.train.pretrained import RenamedClasses
from nds_plugin.job.shared_classes import over_shared, shared_classes


def detections(classes: list[int], boxes: list[list[float]] | None = None) -> dict[str, Any]:
    found = Instances((72, 96))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    found.scores = torch.linspace(0.9, 0.5, len(classes))
    found.pred_boxes = Boxes(torch.tensor(boxes or [[0.0, 0.0, 9.0, 9.0]] * len(classes)).reshape(-1, 4))
    return {"instances": found}


class Seen(DatasetEvaluator):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.outputs += outputs

    def evaluate(self) -> dict[str, Any]:
        return {"bbox": {"AP": 1.0}}


def test_classes_are_shared_by_name_and_synonym_not_by_place() -> None:
    target_of, shared = shared_classes(["dog", "pedestrian", "car"], ["car", "rider", "person"])
    assert target_of == [-1, 2, 0]
    assert shared == ["car", "person"]


def test_near_names_do_not_count_as_shared() -> None:
    assert shared_classes(["person"], ["rider"]) == ([-1], [])


def test_detections_get_the_targets_classes_and_the_others_are_left_out() -> None:
    seen = Seen()
    evaluator = RenamedClasses(seen, [-1, 2, 0])
    given = detections([2, 0, 1, 2])
    evaluator.process([{}], [given])
    assert seen.outputs[0]["instances"].pred_classes.tolist() == [0, 2, 0]
    assert seen.outputs[0]["instances"].scores.tolist() == given["instances"].scores[[0, 2, 3]].tolist()
    assert given["instances"].pred_classes.tolist() == [2, 0, 1, 2]  # what it was given is unchanged
    assert evaluator.evaluate() == {"bbox": {"AP": 1.0}}


def test_means_are_over_the_shared_classes_alone() -> None:
    boxes = {"AP": 5.0, "AP50": 9.0, "AP-car": 12.0, "AP-person": 4.0, "AP-rider": 0.0}
    found = over_shared({"bbox": boxes}, ["car", "person"], ["car", "person", "rider"])
    assert found["AP_bb"] == pytest.approx(8.0)
    assert found["per_category_bb"] == {"car": 12.0, "person": 4.0}
    assert found["AP"] is None
    assert over_shared({"bbox": boxes}, [], ["car"])["AP_bb"] is None


def test_a_perfect_detector_of_the_shared_classes_scores_100(tiny_datasets: Path, tmp_path: Path) -> None:
    """Through the real COCO evaluation, under classes in another order."""
    from nds_plugin.d2 import load_config

    name = "tiny_city_val"
    target = list(dataset_classes(name))
    source = ["something else", *reversed(target[1:])]  # all but the target's first class
    target_of, shared = shared_classes(source, target)
    assert shared == target[1:]
    cfg = load_config("nds_sample.yaml", ["MODEL.MASK_ON", "False", "OUTPUT_DIR", str(tmp_path)])
    evaluator = RenamedClasses(build_evaluator(cfg, name), target_of)
    evaluator.reset()
    for record in dataset_dicts(name):
        truth = [a for a in record["annotations"] if a["category_id"] > 0 and not a.get("iscrowd")]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in truth)]
        classes = [source.index(target[a["category_id"]]) for a in truth]
        wrong = [0]  # of the class that the target has not
        found = detections([*classes, *wrong], [*boxes, [0.0, 0.0, 50.0, 50.0]])
        evaluator.process([{"image_id": record["image_id"]}], [found])
    summary = over_shared(evaluator.evaluate(), shared, target)
    values = [value for value in summary["per_category_bb"].values() if value is not None]
    assert values
    assert values == pytest.approx([100.0] * len(values))
    assert summary["AP_bb"] == pytest.approx(100.0)


def test_a_detection_counts_for_the_target_of_its_own_name_and_for_no_other() -> None:
    target_of, shared = shared_classes(["pm15", "pm1.5", "Car", "person"], ["pm1.5", "pm15", "car"])
    assert (target_of, shared) == ([1, 0, 2, -1], ["pm1.5", "pm15", "car"])
    target_of, shared = shared_classes(["person"], ["pedestrian", "person"])
    assert (target_of, shared) == ([1], ["person"])
