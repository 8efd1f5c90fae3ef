from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import document, write_coco, write_image

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from nds_plugin.d2.data.known_datasets import register_all
from nds_plugin.d2.data.registration import (
    dataset_classes,
    dataset_dicts,
    register_image_subset,
    registered_temporarily,
)
from nds_plugin.d2.train.evaluation import (
    build_evaluator,
    check_ground_truth,
)
from nds_plugin.datasets.coco.truth import complete, read_truth
from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.files.artifacts import plain, read_json
from nds_plugin.job.results import summarise, versions, write_results

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _config(tmp_path: Path, masks: bool = True) -> Any:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = masks
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


def _decode(segmentation: Any, height: int, width: int) -> Any:
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return np.asarray(mask_util.decode(segmentation)).astype(bool)


def _truth_as_predictions(record: dict[str, Any], shift: float = 0.0) -> dict[str, Instances]:
    annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
    size = record["height"], record["width"]
    instances = Instances(size)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) + shift)
    instances.scores = torch.ones(len(annotations))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    if annotations and all(a.get("segmentation") for a in annotations):
        masks = np.stack([_decode(a["segmentation"], *size) for a in annotations])
        instances.pred_masks = torch.from_numpy(masks)
    return {"instances": instances}


def _evaluate(evaluator: Any, name: str, shift: float = 0.0) -> dict[str, Any]:
    evaluator.reset()
    for record in dataset_dicts(name):
        evaluator.process([record], [_truth_as_predictions(record, shift)])
    return dict(evaluator.evaluate())


def test_the_truth_scores_100_and_shifted_boxes_less(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document(masks=True))
    with registered_temporarily("tiny", json_file=str(path)):
        truth = summarise(_evaluate(build_evaluator(_config(tmp_path), "tiny"), "tiny"))
        shifted = summarise(_evaluate(build_evaluator(_config(tmp_path), "tiny"), "tiny", shift=2.0))
    assert truth["AP_bb"] == truth["AP50_bb"] == truth["AP"] == truth["AP50"] == pytest.approx(100)
    assert truth["per_category"] == pytest.approx({"cat": 100, "dog": 100})
    assert truth["per_category_bb"] == pytest.approx({"cat": 100, "dog": 100})
    assert shifted["AP_bb"] < 50
    assert shifted["AP"] == pytest.approx(100)


def test_masks_are_evaluated_where_model_and_dataset_have_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = document(masks=True)
    del content["annotations"][2]["segmentation"]
    files = {
        "masks": write_coco(tmp_path, document(masks=True), "masks.json"),
        "boxes": write_coco(tmp_path, document(), "boxes.json"),
        "mixed": write_coco(tmp_path, content, "mixed.json"),
    }
    expected = {"masks": {"bbox", "segm"}, "boxes": {"bbox"}, "mixed": {"bbox"}}
    for name, path in files.items():
        with registered_temporarily(name, json_file=str(path)):
            results = _evaluate(build_evaluator(_config(tmp_path), name), name)
            assert set(results) == expected[name]
            assert results["bbox"]["AP"] == pytest.approx(100)
            assert set(_evaluate(build_evaluator(_config(tmp_path, masks=False), name), name)) == {"bbox"}
    assert "'mixed': 1 of 5 annotations have no mask" in caplog.text


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nds_coco_2017_val", "coco/annotations/instances_val2017.json"),
        ("modanet_train", "modanet/annotations/modanet2018_instances_train.json"),
    ],
)
def test_public_coco_files_are_evaluated_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, stock: bool
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("nds_plugin.d2.data.known_datasets._CLASS_METADATA", ())  # the classes are not COCO's
    content = document(masks=True)
    content["annotations"][0] |= {"bbox": [-5, 4, 19, 10], "area": 190}  # the store's is clipped
    path = write_coco(tmp_path, content, file)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    register_all()
    try:
        assert dataset_dicts(name)[1]["annotations"][0]["bbox"] == [0, 4, 14, 10]
        if stock:
            evaluator = COCOEvaluator(name, ("bbox",), output_dir=str(tmp_path / "out"), use_fast_impl=False)
        else:
            evaluator = build_evaluator(_config(tmp_path), name)
        assert MetadataCatalog.get(name).json_file == str(path)
        assert evaluator._coco_api.anns[1]["bbox"] == [-5, 4, 19, 10]
        assert not list(tmp_path.rglob("*_coco_format.json"))
        assert summarise(_evaluate(evaluator, name))["AP50_bb"] == pytest.approx(100)
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)
        monkeypatch.undo()
        register_all()


def test_a_subset_is_evaluated_on_its_own_images(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document(masks=True))
    cfg = _config(tmp_path)
    drawn = set()
    with registered_temporarily("whole", json_file=str(path)):
        for seed in range(6):  # one folder: the ground truth of an earlier subset must not be taken
            register_image_subset("part", "whole", 2, seed)
            ids = [record["image_id"] for record in dataset_dicts("part")]
            evaluator = build_evaluator(cfg, "part", tmp_path / "eval")
            truth = json.loads((tmp_path / "eval" / "part_coco_format.json").read_text())
            assert [image["id"] for image in truth["images"]] == ids
            results = summarise(_evaluate(evaluator, "part"))
            assert results["AP_bb"] == results["AP"] == pytest.approx(100)
            drawn.add(tuple(ids))
        build_evaluator(cfg, "part", tmp_path / "other")
        assert (tmp_path / "other" / "part_coco_format.json").is_file()
    assert len(drawn) > 1


def test_image_ids_that_are_text_are_evaluated(tmp_path: Path) -> None:
    content = document(masks=True)
    for image in content["images"]:
        image["id"] = f"city_{image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"city_{annotation['image_id']}"
    with registered_temporarily("text", json_file=str(write_coco(tmp_path, content))):
        results = summarise(_evaluate(build_evaluator(_config(tmp_path), "text"), "text"))
    assert results["AP_bb"] == results["AP"] == pytest.approx(100)


def _write_voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("000001\n000002\n")
    for i, name in ((1, "dog"), (2, "cat")):
        (root / "Annotations" / f"00000{i}.xml").write_text(
            "<annotation><size><width>64</width><height>48</height></size><object>"
            f"<name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
            "<xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
        )


def test_voc_is_evaluated_by_its_own_evaluator(tmp_path: Path) -> None:
    from detectron2.data.datasets.pascal_voc import load_voc_instances

    _write_voc(tmp_path)
    classes = ["cat", "dog"]
    metadata = {"thing_classes": classes, "dirname": str(tmp_path), "year": 2007, "split": "test"}

    def load() -> list[dict[str, Any]]:
        return load_voc_instances(str(tmp_path), "test", classes)

    with registered_temporarily("voc", load, evaluator_type="pascal_voc", **metadata):
        evaluator = build_evaluator(_config(tmp_path), "voc")
        assert isinstance(evaluator, PascalVOCDetectionEvaluator)
        summary = summarise(_evaluate(evaluator, "voc"))
    assert summary["AP_bb"] == summary["AP50_bb"] == pytest.approx(100)
    assert summary["AP"] is None
    (tmp_path / "ImageSets/Main/test.txt").unlink()
    again = registered_temporarily("voc", load, evaluator_type="pascal_voc", **metadata)
    with again, pytest.raises(NDSError, match=r"dataset 'voc': annotation file not found: .*test\.txt"):
        build_evaluator(_config(tmp_path), "voc")


def _broken(change: Any) -> dict[str, Any]:
    content = document(masks=True)
    change(content["annotations"])
    return content


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda a: a.clear(), "coco", "dataset 'x' has no annotations to evaluate against"),
        (
            lambda a: [x.update(iscrowd=1) for x in a],
            "coco",
            r"dataset 'x': all 5 annotations are crowds \(iscrowd 1\).*nothing to evaluate against",
        ),
        (len, "lvis", "unknown evaluator type of dataset 'x': 'lvis'.*Known: coco, pascal_voc"),
    ],
)
def test_ground_truth_that_cannot_be_used_is_named_before_the_run(
    tmp_path: Path, change: Any, kind: str, message: str
) -> None:
    path = str(write_coco(tmp_path, _broken(change)))
    temporary = registered_temporarily("x", json_file=path, evaluator_type=kind)
    with temporary, pytest.raises(NDSError, match=message):
        build_evaluator(_config(tmp_path), "x")


def test_boxes_and_masks_that_nothing_can_match_are_told_before_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(change: Any) -> None:
        path = str(write_coco(tmp_path, _broken(change)))
        with registered_temporarily("x", json_file=path):
            check_ground_truth("x")

    message = "'x': none of the 4 boxes to find has an area, so that the AP can only be 0"
    with pytest.raises(NDSError, match=message):
        check(lambda a: [x.update(bbox=[5, 5, 0, 9]) for x in a])
    check(lambda a: a[0].update(bbox=[5, 5, 0, 9]))  # the others can be found
    assert "cover nothing" not in caplog.text
    packed = mask_util.encode(np.zeros((48, 64), np.uint8, order="F"))["counts"].decode()
    empty = [{"size": [48, 64], "counts": counts} for counts in ([48 * 64], packed)]
    check(lambda a: [x.update(segmentation=mask) for x, mask in zip(a, empty)])
    assert "'x': the run-length masks of 2 of 5 annotations cover nothing" in caplog.text


def test_an_unknown_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset 'none'"):
        build_evaluator(_config(tmp_path), "none")


def _without(*keys: str) -> Any:
    return lambda d: [a.pop(key) for a in d["annotations"] for key in keys]


def _every(**values: Any) -> Any:
    return lambda d: [a.update(values) for a in d["annotations"] if not a["iscrowd"]]


def _text_ids(d: dict[str, Any]) -> None:
    for category in d["categories"]:
        category["id"] = f"c{category['id']}"
    for annotation in d["annotations"]:
        annotation["category_id"] = f"c{annotation['category_id']}"


def _run_lengths(d: dict[str, Any]) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in d["images"]}
    for annotation in d["annotations"]:
        (polygon,) = mask_util.frPyObjects(annotation["segmentation"], *sizes[annotation["image_id"]])
        mask = np.asarray(mask_util.decode(polygon)).ravel(order="F")
        edges = np.flatnonzero(np.diff(np.r_[0, mask, 1 - mask[-1]]))
        counts = np.diff(np.r_[0, edges]).tolist()
        annotation["segmentation"] = {"size": list(sizes[annotation["image_id"]]), "counts": counts}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("iscrowd"), "iscrowd set for 5 annotations"),
        (_every(iscrowd=None), "iscrowd set for 4 annotations"),
        (_without("area"), "the area of 5 annotations"),
        (_every(area=None), "the area of 4 annotations"),
        (_every(area="100"), "the area of 4 annotations"),
        (_every(area=-1), "the area of 4 annotations"),
        (_every(area=float("nan")), "the area of 4 annotations"),
        (_without("id"), "new ids for the 5 annotations"),
        (lambda d: d["annotations"][1].update(id=0), "new ids for the 5 annotations"),
        (lambda d: d["annotations"][1].update(id=1), "new ids"),
        (lambda d: d["annotations"][1].update(id="a1"), "new ids"),
        (lambda d: d["annotations"][1].update(id=1.0), "new ids"),
        (_text_ids, "numbers for the 2 ids of categories"),
        (lambda d: d["categories"].insert(0, {"id": 0, "name": "dog"}), "1 categories left out"),
        (lambda d: _text_ids(d) or d["categories"].insert(0, {"id": "0", "name": "dog"}), "1 categories left out"),
        (lambda d: d["annotations"].append({**d["annotations"][0], "id": 9, "segmentation": [[1, 2]]}), "1 annotations left"),
        (lambda d: d["annotations"][0]["segmentation"].append([1, 2, 3, 4]), ""),
        (lambda d: d["annotations"].append({**d["annotations"][0], "id": 9, "ignore": 1}), "iscrowd set for 1"),
        (_run_lengths, ""),
        (_without("iscrowd", "area", "id"), "iscrowd set .* the area .* new ids"),
        (lambda d: [c.update(id=float(c["id"])) for key in ("images", "categories") for c in d[key]], ""),
    ],
)  # fmt: skip
def test_perfect_predictions_score_100_whatever_pycocotools_needs_and_the_file_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any, said: str
) -> None:
    content = document(masks=True)
    change(content)
    path = write_coco(tmp_path, content)
    before = path.read_bytes()
    with registered_temporarily("x", json_file=str(path)), caplog.at_level(logging.WARNING):
        check_ground_truth("x")
        summary = summarise(_evaluate(build_evaluator(_config(tmp_path), "x"), "x"))
        assert MetadataCatalog.get("x").json_file == str(path)
    assert summary["AP_bb"] == summary["AP"] == pytest.approx(100)
    assert re.search(said, caplog.text)
    assert path.read_bytes() == before


def test_images_without_a_size_are_evaluated_by_that_of_their_files(tmp_path: Path) -> None:
    content = document(masks=True)
    for image in content["images"]:
        write_image(tmp_path / image["file_name"], image.pop("width"), image.pop("height"))
    path = write_coco(tmp_path, content)
    with registered_temporarily("x", json_file=str(path), image_root=str(tmp_path)):
        summary = summarise(_evaluate(build_evaluator(_config(tmp_path), "x"), "x"))
    assert summary["AP_bb"] == summary["AP"] == pytest.approx(100)


def test_a_missing_area_is_that_of_the_mask_else_of_the_box() -> None:
    triangle = [[0, 0, 20, 0, 0, 20]]
    content = document()
    content["annotations"][0] |= {"bbox": [0, 0, 20, 20], "segmentation": triangle}
    for annotation in content["annotations"]:
        del annotation["area"]
    truth = complete(content, lambda image_id: pytest.fail("all sizes are known"))
    areas = [annotation["area"] for annotation in truth.document["annotations"]]
    assert areas == [_decode(triangle, 48, 64).sum(), 64, 64, 200, 2400]
    assert "area" not in content["annotations"][0], "the document stays as it is"
    assert complete(document(masks=True), len).changes == ()


def test_ground_truth_that_is_no_coco_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in (
        "[1]",
        "{",
        '{"images": [1], "annotations": [{"segmentation": 1}], "categories": []}',
        "\xff",
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(NDSError, match=r"x\.json is no COCO json that can be evaluated against") as error:
            read_truth(str(path), lambda image_id: (1, 1))
        assert "\n" not in str(error.value)
    path.write_text(json.dumps(document()), encoding="utf-8-sig")
    assert read_truth(str(path), lambda image_id: (1, 1)).changes == ("no byte order mark",)


def test_summary_has_none_for_what_was_not_computed() -> None:
    nan = float("nan")
    boxes = {"AP": 40.5, "AP50": 60.0, "AP75": 1.0, "AP-cat": 41.0, "AP-dog-house": nan}
    summary = summarise({"bbox": boxes, "segm": {"AP": nan, "AP50": nan}})
    assert summary == {
        "AP_bb": 40.5,
        "AP50_bb": 60.0,
        "AP": None,
        "AP50": None,
        "per_category": {},
        "per_category_bb": {"cat": 41.0, "dog-house": None},
    }
    assert summarise({})["AP_bb"] is None
    only = summarise({"segm": {"AP": 12.0}, "bbox": {"AP": nan}}, classes=["person"])
    assert only["per_category"] == {"person": 12.0}
    assert only["per_category_bb"] == {"person": None}
    with pytest.raises(NDSError, match="expected the results of one dataset"):
        summarise({"bbox": 3.0})


def test_a_detector_that_finds_nothing_has_an_ap_of_0(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document(masks=True))
    with registered_temporarily("tiny", json_file=str(path)):
        evaluator = build_evaluator(_config(tmp_path), "tiny")
        evaluator.reset()
        for record in dataset_dicts("tiny"):
            instances = Instances((record["height"], record["width"]))
            instances.pred_boxes = Boxes(torch.zeros(0, 4))
            instances.scores, instances.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
            instances.pred_masks = torch.zeros(0, record["height"], record["width"], dtype=torch.bool)
            evaluator.process([record], [{"instances": instances}])
        summary = summarise(evaluator.evaluate(), ["cat", "dog"])
    nothing = {"cat": 0.0, "dog": 0.0}
    assert summary == {"AP_bb": 0.0, "AP50_bb": 0.0, "AP": 0.0, "AP50": 0.0,
                       "per_category": nothing, "per_category_bb": nothing}  # fmt: skip


def test_results_of_a_run_are_one_strict_json_file(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    results = {"bbox": {"AP": float("nan"), "AP50": np.float64(10.5)}}
    path = tmp_path / "results.json"
    arguments: dict[str, Any] = {
        "config": cfg.dump(),
        "seed": 3,
        "times": {"fine-tune": np.float32(1.5)},
        "frameworks": ("detectron2",),
    }
    payload = write_results(path, results, **arguments, extra={"budget": np.int64(5), "share": float("inf")})
    read = read_json(path, "results")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in strict JSON"))
    assert {k: v for k, v in read.items() if k not in ("kind", "version", "key")} == payload
    assert read["seed"] == 3
    assert read["summary"]["AP50_bb"] == 10.5
    assert read["results"]["bbox"]["AP"] is None
    assert read["times"] == {"fine-tune": 1.5}
    assert (read["budget"], read["share"]) == (5, None)
    assert read["config"] == cfg.dump()
    assert read["versions"]["torch"] == torch.__version__
    assert all(
        read["versions"][name] for name in ("python", "detectron2", "numpy", "pycocotools", "nds_plugin")
    )
    assert read["machine"]["cores"] >= 1
    assert read["machine"]["cpu"]
    write_results(tmp_path / "again.json", results, **arguments)
    assert read_json(tmp_path / "again.json", "results")["key"] == read["key"]
    write_results(tmp_path / "other.json", results, **{**arguments, "seed": 4})
    assert read_json(tmp_path / "other.json", "results")["key"] != read["key"]


def test_plain_values_are_jsonable() -> None:
    value = {1: (np.arange(2), float("-inf")), "t": torch.tensor([1.0, float("nan")])}
    assert plain(value) == {"1": [[0, 1], None], "t": [1.0, None]}
    assert set(versions(("detectron2",))) == {
        "python",
        "torch",
        "torchvision",
        "detectron2",
        "numpy",
        "pycocotools",
        "nds_plugin",
    }


@pytest.mark.usefixtures("nds_data")
def test_the_truth_of_real_frames_scores_100(tmp_path: Path) -> None:
    register_all()
    name = "nds_data_cityscapes_val"
    results = _evaluate(build_evaluator(_config(tmp_path), name), name)
    summary = summarise(results, dataset_classes(name))
    for key in ("AP_bb", "AP50_bb", "AP", "AP50"):
        assert summary[key] == pytest.approx(100, abs=1e-6)
    present = {
        c
        for r in dataset_dicts(name)
        for c in (a["category_id"] for a in r["annotations"] if not a["iscrowd"])
    }
    scored = {k for k, v in summary["per_category"].items() if v is not None}
    assert scored == {dataset_classes(name)[c] for c in present}
