from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voc_trees import Picture, Thing, write_voc

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator, print_csv_format
from detectron2.evaluation.pascal_voc_evaluation import voc_ap, voc_eval
from detectron2.structures import Boxes, Instances

from nds_plugin.d2 import register_all
from nds_plugin.d2.data.registration import dataset_dicts, register_image_subset
from nds_plugin.d2.train.evaluation import build_evaluator, check_ground_truth
from nds_plugin.d2.train.voc_evaluation import VOCEvaluator
from nds_plugin.datasets.voc.split import CLASSES
from nds_plugin.errors import NDSError
from nds_plugin.job.results import summarise
from nds_plugin.job.voc_ap import Detections, Truth, ap_11point, ap_area, best_overlaps, class_aps, outcomes

NAME = "nds_voc_2007_test"
SIZE = (120, 90)


def _random_pictures(seed: int, count: int = 40) -> list[Picture]:
    """Objects of all classes, some difficult, crowded enough to overlap; some images without any."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for i in range(count):
        things = []
        for _ in range(int(rng.integers(0, 7))):
            x0, y0 = int(rng.integers(1, 80)), int(rng.integers(1, 60))
            corners = (x0, y0, x0 + int(rng.integers(10, 40)), y0 + int(rng.integers(10, 30)))
            # Few classes, so that one image holds several of a class; the rarest is always difficult.
            name = CLASSES[int(rng.integers(0, 5)) if rng.random() < 0.8 else int(rng.integers(0, 19))]
            difficult = int(rng.random() < 0.2 or name == "sofa")
            things.append(Thing(name, corners, difficult))
        found.append(Picture(f"{i:06d}", things, SIZE))
    missing = set(CLASSES) - {"sofa"} - {t.name for p in found for t in p.things if not t.difficult}
    found.append(Picture("999999", [Thing(name, (1, 1, 20, 20)) for name in sorted(missing)], SIZE))
    return found


def _random_detections(pictures: list[Picture], seed: int) -> dict[str, dict[str, Any]]:
    """Shifted copies of the objects, doubles and false alarms, rounded as the text files of the stock evaluator."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows: dict[str, list[tuple[Any, ...]]] = {p.image_id: [] for p in pictures}
    for picture in pictures:
        for thing in picture.things:
            x0, y0, x1, y1 = thing.corners
            for _ in range(int(rng.integers(0, 4))):
                box = np.array([x0 - 1, y0 - 1, x1, y1]) + rng.normal(0, 2.5, 4)
                name = thing.name if rng.random() < 0.9 else CLASSES[int(rng.integers(0, 20))]
                rows[picture.image_id].append((box, CLASSES.index(name)))
        for _ in range(int(rng.integers(0, 3))):
            x0, y0 = rng.uniform(0, 90), rng.uniform(0, 60)
            rows[picture.image_id].append((np.array([x0, y0, x0 + 25, y0 + 20]), int(rng.integers(0, 20))))
    total = sum(map(len, rows.values()))
    scores = iter(rng.permutation(999)[:total] / 1000 + 0.001)  # no two alike
    return {
        image_id: {
            "boxes": np.array([box for box, _ in found]).reshape(-1, 4).round(1),
            "classes": np.array([cls for _, cls in found], dtype=np.int64),
            "scores": np.array([next(scores) for _ in found]),
        }
        for image_id, found in rows.items()
    }


def _instances(found: dict[str, Any]) -> dict[str, Instances]:
    instances = Instances(SIZE[::-1])
    instances.pred_boxes = Boxes(torch.tensor(found["boxes"], dtype=torch.float64))
    instances.scores = torch.tensor(found["scores"], dtype=torch.float64)
    instances.pred_classes = torch.tensor(found["classes"])
    return {"instances": instances}


def _run(evaluator: Any, detections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    evaluator.reset()
    for image_id, found in detections.items():
        evaluator.process([{"image_id": image_id}], [_instances(found)])
    return dict(evaluator.evaluate())


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    content = _random_pictures(1)
    write_voc(tmp_path / "VOC2007", content)
    register_all()
    return content


def _config() -> Any:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = False
    return cfg


def test_every_class_and_overlap_agrees_with_the_devkits_rules(voc: list[Picture], tmp_path: Path) -> None:
    detections = _random_detections(voc, 2)
    results = _run(build_evaluator(_config(), NAME), detections)["bbox"]
    folder = tmp_path / "VOC2007"
    lists, xml = str(folder / "ImageSets/Main/test.txt"), str(folder / "Annotations/{}.xml")
    for number, name in enumerate(CLASSES):
        lines = [
            f"{image_id} {score:.3f} " + " ".join(f"{v:.1f}" for v in box + np.array([1, 1, 0, 0]))
            for image_id, found in detections.items()
            for box, cls, score in zip(found["boxes"], found["classes"], found["scores"])
            if cls == number
        ]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
        if name == "sofa":  # difficult ones only: nothing to find
            assert math.isnan(results["AP50_11point-sofa"])
            assert math.isnan(results["AP-sofa"])
            continue
        for key, old in (("11point", True), ("area", False)):
            _, _, expected = voc_eval(str(tmp_path / "{}.txt"), xml, lists, name, 0.5, old)
            assert results[f"AP50_{key}-{name}"] == pytest.approx(100 * expected, abs=1e-9)
        over = [
            voc_eval(str(tmp_path / "{}.txt"), xml, lists, name, t / 100, True)[2] for t in range(50, 100, 5)
        ]
        assert results[f"AP-{name}"] == pytest.approx(100 * np.mean(over), abs=1e-9)
    assert 5 < results["AP50_11point"] < 95
    assert results["AP50_11point"] != results["AP50_area"]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_the_means_are_those_of_detectron2s_evaluator(voc: list[Picture]) -> None:
    detections = _random_detections(voc, 3)
    ours = _run(build_evaluator(_config(), NAME), detections)["bbox"]
    theirs = _run(PascalVOCDetectionEvaluator(NAME), detections)["bbox"]  # by the metadata that we set
    classes = 20  # its mean counts the class without objects as 0, ours leaves it out
    for key in ("AP", "AP50", "AP75"):
        assert ours[key] * (classes - 1) / classes == pytest.approx(theirs[key], abs=1e-9)
    assert ours["AP50"] == ours["AP50_11point"]


def test_the_truth_scores_100_and_difficult_objects_need_not_be_found(voc: list[Picture]) -> None:
    def truth(keep: Any) -> dict[str, dict[str, Any]]:
        found = {}
        for picture in voc:
            things = [t for t in picture.things if keep(t)]
            boxes = np.array([t.corners for t in things], dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]
            classes = np.array([CLASSES.index(t.name) for t in things], dtype=np.int64)
            found[picture.image_id] = {"boxes": boxes, "classes": classes, "scores": np.ones(len(things))}
        return found

    evaluator = build_evaluator(_config(), NAME)
    for keep in (lambda t: True, lambda t: not t.difficult):
        results = _run(evaluator, truth(keep))
        assert summarise(results)["AP_bb"] == summarise(results)["AP50_bb"] == pytest.approx(100)
        assert results["bbox"]["AP50_area"] == pytest.approx(100)
    none = _run(evaluator, truth(lambda t: False))["bbox"]
    assert none["AP"] == none["AP50_area"] == 0.0


def test_both_definitions_are_printed_with_their_names(
    voc: list[Picture], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        results = _run(build_evaluator(_config(), NAME), _random_detections(voc, 2))
        print_csv_format(results)
    bbox = results["bbox"]
    assert f"mAP at overlap 0.5, 11-point: {bbox['AP50_11point']:.2f}" in caplog.text
    assert f"mAP at overlap 0.5, area under the curve: {bbox['AP50_area']:.2f}" in caplog.text
    assert "copypaste: AP,AP50,AP75,AP50_11point,AP50_area" in caplog.text
    table = summarise(results, CLASSES)
    assert set(table["per_category_bb"]) == set(CLASSES)
    assert table["AP"] is None
    assert table["per_category_bb"]["sofa"] is None


def test_a_later_year_reports_the_area(voc: list[Picture]) -> None:
    evaluator = VOCEvaluator(NAME, dataset_dicts(NAME), CLASSES, year=2012)  # type: ignore[arg-type]
    results = _run(evaluator, _random_detections(voc, 2))["bbox"]
    assert results["AP50"] == results["AP50_area"] != results["AP50_11point"]


def test_the_order_of_the_images_does_not_matter(voc: list[Picture]) -> None:
    detections = _random_detections(voc, 4)
    for found in detections.values():
        found["scores"] = np.round(found["scores"], 1)  # many alike
    evaluator = build_evaluator(_config(), NAME)
    first = _run(evaluator, detections)["bbox"]
    second = _run(evaluator, dict(reversed(detections.items())))["bbox"]
    assert {k: v for k, v in first.items() if v == v} == {k: v for k, v in second.items() if v == v}


def test_a_subset_is_evaluated_on_its_own_images(voc: list[Picture]) -> None:
    register_image_subset("voc_part", NAME, 10, seed=3)
    assert MetadataCatalog.get("voc_part").evaluator_type == "pascal_voc"
    ids = {record["image_id"] for record in dataset_dicts("voc_part")}
    detections = _random_detections(voc, 5)
    part = {i: found for i, found in detections.items() if i in ids}
    results = _run(build_evaluator(_config(), "voc_part"), part)["bbox"]
    assert 0 < results["AP50"] <= 100
    outside = next(i for i in detections if i not in ids)
    with pytest.raises(NDSError, match=f"dataset 'voc_part' has no image '{outside}'"):
        _run(build_evaluator(_config(), "voc_part"), {outside: detections[outside]})


def test_ground_truth_without_an_object_that_counts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_voc(
        tmp_path / "VOC2007", [Picture("000001", [Thing("cat", (1, 1, 9, 9), difficult=1)]), Picture("2")]
    )
    register_all()
    with pytest.raises(
        NDSError, match=r"'nds_voc_2007_test' has no annotations to evaluate against \(difficult"
    ):
        check_ground_truth(NAME)
    with pytest.raises(NDSError, match=r"ImageSets/Main/val\.txt is not there"):
        check_ground_truth("nds_voc_2007_val")


def test_average_precision_agrees_with_the_field_s_on_random_curves() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(50):
        right = rng.random(int(rng.integers(0, 60))) < 0.6
        recall = np.cumsum(right) / max(int(right.sum()) + int(rng.integers(0, 9)), 1)
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        assert ap_11point(recall, precision) == pytest.approx(voc_ap(recall, precision, True))
        assert ap_area(recall, precision) == pytest.approx(voc_ap(recall, precision, False))


def test_the_second_detection_of_an_object_is_wrong_and_one_on_a_difficult_is_neither() -> None:
    truth = Truth(
        np.array([0, 0, 2]),
        np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]], float),
        np.array([False, True, False]),
    )
    image = np.array([0, 0, 0, 1, 2])
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 9], [0, 0, 10, 10], [5, 0, 15, 10]], float)
    overlap, nearest = best_overlaps(image, boxes, truth)
    assert overlap.tolist() == pytest.approx([0.9, 1, 0.9, -1, 1 / 3])
    assert nearest[[0, 1, 2, 4]].tolist() == [0, 0, 1, 2]
    right, wrong = outcomes(overlap, nearest, truth.difficult, 0.5)
    assert right.tolist() == [True, False, False, False, False]
    assert wrong.tolist() == [False, True, False, True, True]


def test_a_class_without_detections_scores_nothing_and_one_without_objects_is_not_scored() -> None:
    none = Detections(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    some = Truth(np.array([3]), np.array([[0.0, 0, 1, 1]]), np.array([False]))
    empty = Truth(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))
    assert class_aps(none, some, [0.5]) == {"11point": [0.0], "area": [0.0]}
    one = Detections(np.array([3]), np.array([[0.0, 0, 1, 1]]), np.array([0.5]))
    assert all(math.isnan(v[0]) for v in class_aps(one, empty, [0.5]).values())
    assert class_aps(one, some, [0.5, 0.95])["area"] == [1.0, 1.0]
