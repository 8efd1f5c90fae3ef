from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

pytest.importorskip("cityscapesscripts", reason="pip install --no-deps cityscapesscripts")
pytest.importorskip(
    "pyquaternion", reason="pip install pyquaternion: cityscapesscripts' conversion imports it"
)

from cityscapes_trees import HEIGHT, LABELS, WIDTH, instance_png, scene, write_frame, write_tree
from store_objects import objects_of

from nds_plugin.datasets.cityscapes import split as cityscapes
from nds_plugin.datasets.cityscapes.polygons import read_polygons
from nds_plugin.errors import NDSError
from nds_plugin.store import AnnotationStore, open_or_build
from nds_plugin.store.records import RecordDecoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'resolution' argument:DeprecationWarning"),  # Detectron2's call
]

ID = dict(zip(LABELS, (24, 25, 26, 27, 28, 31, 32, 33)))
_SMALL = 60  # pixels


def _open(root: Path, split: str = "train", masks: str = "rle") -> AnnotationStore:
    return open_or_build(cityscapes.spec(split, masks, root))


def _records(root: Path, masks: str = "rle") -> list[dict[str, Any]]:
    store = _open(root, "train", masks)
    decode = RecordDecoder(store, str(root / "cityscapes/leftImg8bit/train"), "XYWH", lambda name: (0, 0))
    return [decode(i) for i in range(len(store))]


def _png(root: Path, stem: str) -> Path:
    return root / "cityscapes/gtFine/train" / stem.split("_")[0] / f"{stem}_gtFine_instanceIds.png"


def _ids(root: Path, stem: str) -> np.ndarray[Any, Any]:
    with Image.open(_png(root, stem)) as image:
        assert image.mode.startswith("I")  # 16 bits
        return np.asarray(image).astype(np.int64)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    write_tree(root, count=5)
    return root


def test_masks_are_exact_to_the_pixel(tree: Path) -> None:
    store, records = _open(tree), _records(tree)
    assert store.classes == list(LABELS)
    assert store.category_ids == list(range(1, 9))
    assert [r["image_id"] for r in records] == sorted(r["image_id"] for r in records)
    areas = iter(objects_of(store).area.tolist())
    crowds = 0
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert (record["width"], record["height"]) == (WIDTH, HEIGHT)
        ids = _ids(tree, record["image_id"])
        found = set()
        for annotation in record["annotations"]:
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            (value,) = np.unique(ids[mask]).tolist()
            found.add(value)
            assert (mask == (ids == value)).all()
            assert annotation["iscrowd"] == int(value < 1000)
            assert ID[LABELS[annotation["category_id"]]] == (value if value < 1000 else value // 1000)
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert next(areas) == mask.sum()
            crowds += annotation["iscrowd"]
        classes = set(ID.values())
        assert found == {v for v in np.unique(ids).tolist() if v in classes or v // 1000 in classes}
    assert crowds >= 4
    assert records[2]["annotations"] == [] or records[-1]["annotations"] == []  # a frame without objects


def test_instances_agree_with_cityscapesscripts(tree: Path) -> None:
    from cityscapesscripts.evaluation.instances2dict import instances2dict

    store, compared = _open(tree), 0
    areas = iter(objects_of(store).area.tolist())
    for record in _records(tree):
        with contextlib.redirect_stdout(io.StringIO()):
            (theirs,) = instances2dict([str(_png(tree, record["image_id"]))]).values()
        ours = [(a["category_id"], bool(a["iscrowd"]), next(areas)) for a in record["annotations"]]
        expected = [
            (i, instance["instID"] < 1000, instance["pixelCount"])
            for i, name in enumerate(LABELS)
            for instance in theirs[name]
        ]
        assert sorted(ours) == sorted(expected)
        compared += len(ours)
    assert compared > 40


def _detectron2(root: Path, stem: str, **form: Any) -> list[dict[str, Any]]:
    loader = pytest.importorskip("detectron2.data.datasets.cityscapes")
    labels = _png(root, stem)
    files = (str(labels), str(labels), "", str(labels).replace("instanceIds.png", "polygons.json"))
    try:
        return list(loader._cityscapes_files_to_dict(files, **form)["annotations"])
    except ModuleNotFoundError as error:  # some versions import a module that nobody else has
        pytest.skip(f"this Detectron2 cannot read Cityscapes: {error}")


def test_masks_are_those_of_detectron2s_loader(tree: Path) -> None:
    for record in _records(tree):
        theirs = _detectron2(tree, record["image_id"], from_json=False, to_polygons=False)
        # It leaves out what is one pixel high or wide.
        ours = [a for a in record["annotations"] if a["bbox"][2] > 1 and a["bbox"][3] > 1]
        assert [bool(a["iscrowd"]) for a in ours] == [bool(a["iscrowd"]) for a in theirs]
        assert [ID[LABELS[a["category_id"]]] for a in ours] == [int(a["category_id"]) for a in theirs]
        for a, b in zip(ours, theirs):
            assert mask_util.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0] == 1.0


def _raster(polygons: list[list[float]]) -> np.ndarray[Any, Any]:
    rles = mask_util.frPyObjects(polygons, HEIGHT, WIDTH)
    return np.asarray(mask_util.decode(mask_util.merge(rles))).astype(bool)


def _iou(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_polygons_are_the_objects_without_what_lies_in_front(tree: Path) -> None:
    pytest.importorskip("shapely")
    overlaps = []
    for exact, record in zip(_records(tree), _records(tree, "polygon")):
        assert record["image_id"] == exact["image_id"]
        # By class and order: the numbers of the id image count up within each class.
        ours = sorted((a for a in record["annotations"] if not a["iscrowd"]), key=lambda a: a["category_id"])
        theirs = [a for a in exact["annotations"] if not a["iscrowd"]]
        assert [a["category_id"] for a in ours] == [a["category_id"] for a in theirs]
        for a, b in zip(ours, theirs):
            mask = mask_util.decode(b["segmentation"]).astype(bool)
            if mask.sum() > _SMALL:
                corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"], b["bbox"])]
                assert np.abs(np.subtract(*corners)).max() <= 2
                overlaps.append(_iou(_raster(a["segmentation"]), mask))
    # Outlines and pixels differ at the edges, which is all there is of small objects.
    assert len(overlaps) > 50
    assert min(overlaps) > 0.75
    assert np.mean(overlaps) > 0.94


def test_polygons_agree_with_detectron2s(tree: Path) -> None:
    pytest.importorskip("shapely")
    compared = 0
    for record in _records(tree, "polygon"):
        theirs = _detectron2(tree, record["image_id"], from_json=True, to_polygons=True)[
            ::-1
        ]  # it goes backwards
        ours = record["annotations"]
        assert [bool(a["iscrowd"]) for a in ours] == [bool(a["iscrowd"]) for a in theirs]
        assert [ID[LABELS[a["category_id"]]] for a in ours] == [a["category_id"] for a in theirs]
        for a, b in zip(ours, theirs):
            if _raster(a["segmentation"]).sum() > _SMALL:
                assert _iou(_raster(a["segmentation"]), _raster(b["segmentation"])) > 0.9
                compared += 1
    assert compared > 30


def test_an_object_cut_in_two_has_two_polygons_and_a_hidden_one_none(tree: Path) -> None:
    pytest.importorskip("shapely")
    labels = _png(tree, "aachen_000000_000019").with_name("aachen_000000_000019_gtFine_polygons.json")
    objects = scene(0)[:5]
    document = json.loads(labels.read_text())
    cut = labels.with_name("cut.json")
    cut.write_text(json.dumps({**document, "objects": objects}))
    found = read_polygons(cut, LABELS, (HEIGHT, WIDTH))
    cut.unlink()
    assert [item.name for item in found] == ["car", "bus"]
    bus = found[1]
    assert len(bus.polygons) == 2
    assert bus.bbox == (10.0, 60.0, 51.0, 26.0)  # corner pixels belong to the object
    assert bus.area == pytest.approx(51 * 26 - 5 * 26, abs=2)


def test_training_takes_either_form(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("detectron2")
    from nds_plugin.d2 import NDSDatasetMapper, register_all
    from nds_plugin.d2.data.registration import dataset_classes, dataset_dicts

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))
    register_all()
    for form, mask_format in (("instance", "bitmask"), ("polygon", "polygon")):
        name = f"nds_cityscapes_fine_{form}_train"
        assert dataset_classes(name) == list(LABELS)
        mapper = NDSDatasetMapper(
            is_train=True,
            augmentations=[],
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format=mask_format,
        )
        for record in dataset_dicts(name):
            example = mapper(record)
            kept = [a for a in record["annotations"] if not a["iscrowd"]]
            assert 0 <= len(kept) - len(example["instances"]) <= 1
            assert example["instances"].gt_has_mask.all()


def test_the_truth_scores_100_in_coco_style(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    import torch
    from detectron2.config import get_cfg
    from detectron2.structures import Boxes, Instances

    from nds_plugin.d2 import register_all
    from nds_plugin.d2.data.registration import dataset_dicts
    from nds_plugin.d2.train.evaluation import build_evaluator
    from nds_plugin.job.results import summarise

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))
    register_all()
    name = "nds_cityscapes_fine_instance_train"
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    evaluator = build_evaluator(cfg, name, tmp_path)
    evaluator.reset()
    for record in dataset_dicts(name):
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = Instances((HEIGHT, WIDTH))
        boxes = np.array([a["bbox"] for a in kept]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.tensor(boxes))
        instances.scores = torch.ones(len(kept))
        instances.pred_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.int64)
        masks = [mask_util.decode(a["segmentation"]) for a in kept]
        instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, HEIGHT, WIDTH)).bool()
        evaluator.process([record], [{"instances": instances}])
    summary = summarise(evaluator.evaluate(), LABELS)
    for key in ("AP_bb", "AP50_bb", "AP", "AP50"):
        assert summary[key] == pytest.approx(100)
    assert set(summary["per_category"]) == set(LABELS)
    truth = json.loads((tmp_path / f"{name}_coco_format.json").read_text())
    assert len(truth["annotations"]) == _open(tree).num_annotations
    assert [c["name"] for c in truth["categories"]] == list(LABELS)


def test_a_second_call_does_not_convert_again_and_a_change_does(tmp_path: Path) -> None:
    write_tree(tmp_path)
    store = _open(tmp_path)
    assert store.path == tmp_path / "nds_stores" / "nds_cityscapes_fine_instance_train.arrow"
    first = store.path.stat()
    assert _open(tmp_path).path.stat().st_mtime_ns == first.st_mtime_ns
    write_tree(tmp_path, count=4)
    assert len(_open(tmp_path)) == 4
    changed = _png(tmp_path, "aachen_000000_000019")
    Image.fromarray(np.full((HEIGHT, WIDTH), 26001, dtype=np.uint16)).save(changed)
    assert [0.0, 0.0, float(WIDTH), float(HEIGHT)] in objects_of(_open(tmp_path)).bbox.tolist()
    assert not list((tmp_path / "nds_stores").glob(".*.parts"))


def test_after_an_interruption_finished_parts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cityscapes, "_CHUNK", 1)
    monkeypatch.setenv("NDS_PROCESSES", "1")
    write_tree(tmp_path, count=4)
    victim = _png(tmp_path, "zürich_000003_000019")
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        NDSError, match=r"Cityscapes: \S*zürich_000003_000019_gtFine_instanceIds\.png: the image is cut short"
    ):
        _open(tmp_path)
    (parts,) = (tmp_path / "nds_stores").glob(".*.parts")
    finished = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(finished) == 3
    assert not list((tmp_path / "nds_stores").glob("*.arrow"))
    victim.write_bytes(content)
    done: list[str] = []
    original = cityscapes._convert_labels

    def counted(frame: Any, size: Any) -> Any:
        done.append(frame.image_id)
        return original(frame, size)

    monkeypatch.setattr(cityscapes, "_convert_labels", counted)
    assert len(_open(tmp_path)) == 4
    assert done == ["zürich_000003_000019"]


def _build(root: str) -> None:
    _open(Path(root))


def test_many_processes_may_ask_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, count=6)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = [context.Process(target=_build, args=(str(tmp_path),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert len(_open(tmp_path)) == 6


def test_a_missing_tree_shows_the_expected_one(tmp_path: Path) -> None:
    with pytest.raises(
        NDSError,
        match=r"Cityscapes: \S*leftImg8bit/train/CITY/\S+ is not there. Expected below .*gtFine/\{train,val\}",
    ) as error:
        _open(tmp_path)
    assert "\n" not in str(error.value)
    assert "gtFine_trainvaltest.zip" in str(error.value)
    write_tree(tmp_path)
    with pytest.raises(NDSError, match=r"leftImg8bit/val/CITY"):
        _open(tmp_path, "val")


def test_a_frame_without_its_counterpart_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path)
    _png(tmp_path, "zürich_000001_000019").unlink()
    with pytest.raises(
        NDSError, match=r"1 images and annotations lack their counterpart, first .*zürich.*leftImg8bit"
    ):
        _open(tmp_path)


@pytest.mark.parametrize(
    ("masks", "content", "message"),
    [
        ("rle", np.zeros((10, 12), np.uint16), r"instanceIds\.png is 12 x 10 pixels, expected 192 x 96"),
        (
            "rle",
            np.zeros((HEIGHT, WIDTH, 3), np.uint8),
            r"must have one channel of numbers of objects, it is RGB",
        ),
        ("rle", b"\x89PNG", r"instanceIds\.png: not an image"),
        ("polygon", b'{"imgHeight": 96', r"polygons\.json is not a whole file of polygons"),
        ("polygon", b'{"imgHeight": 96, "imgWidth": 192}', r"polygons\.json .* it lacks 'objects'"),
        (
            "polygon",
            b'{"imgHeight": 6, "imgWidth": 192, "objects": []}',
            r"is 192 x 6 pixels, expected 192 x 96",
        ),
        (
            "polygon",
            b'{"imgHeight": 96, "imgWidth": 192, "objects": [{"label": "ufo", "polygon": [[1, 2]]}]}',
            r"an object of the unknown class 'ufo'",
        ),
        (
            "polygon",
            b'{"imgHeight": 96, "imgWidth": 192, "objects": [{"label": "car", "polygon": [[1, 2, 3]]}]}',
            r"an object is not a label and points",
        ),
        (
            "polygon",
            b'{"imgHeight": 96, "imgWidth": 192, "objects": [{"label": "car", "polygon": [[1, NaN], [3, 4], [5, 6]]}]}',
            r"an object is not a label and points",
        ),
    ],
)
def test_broken_annotations_are_named_and_leave_nothing(
    tmp_path: Path, masks: str, content: Any, message: str
) -> None:
    write_tree(tmp_path)
    png = _png(tmp_path, "aachen_000000_000019")
    path = png if masks == "rle" else png.with_name("aachen_000000_000019_gtFine_polygons.json")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    with pytest.raises(NDSError, match=message) as error:
        _open(tmp_path, masks=masks)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    assert not list((tmp_path / "nds_stores").glob("*.arrow"))


@pytest.mark.parametrize("masks", ["rle", "polygon"])
def test_the_absent_package_is_named_with_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: str
) -> None:
    write_tree(tmp_path)
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    with pytest.raises(NDSError, match=r"pip install .*cityscapesscripts"):
        _open(tmp_path, masks=masks)


def test_outlines_that_cross_themselves_or_are_no_area_do_no_harm(tmp_path: Path) -> None:
    pytest.importorskip("shapely")
    bow = {"label": "car", "polygon": [[20, 20], [60, 60], [60, 20], [20, 60]]}
    line = {"label": "person", "polygon": [[5, 5], [9, 5]]}
    outside = {"label": "bus", "polygon": [[300, 5], [320, 5], [320, 30]]}
    write_frame(tmp_path, "train", "ulm_000000_000019", [bow, line, outside])
    (exact,), (record,) = _records(tmp_path), _records(tmp_path, "polygon")
    ours = sorted(record["annotations"], key=lambda a: a["category_id"])
    assert [LABELS[a["category_id"]] for a in exact["annotations"]] == ["person", "car"]
    assert [LABELS[a["category_id"]] for a in ours] == ["person", "car"]
    assert ours[0]["bbox"] == [5.0, 5.0, 5.0, 1.0] == exact["annotations"][0]["bbox"]
    assert len(ours[1]["segmentation"]) == 1  # both halves of the bow
    mask = mask_util.decode(exact["annotations"][1]["segmentation"]).astype(bool)
    assert _iou(_raster(ours[1]["segmentation"]), mask) > 0.9


def test_the_id_image_lies_beside_its_polygons(tmp_path: Path) -> None:
    write_tree(tmp_path, count=2)
    for labels in tmp_path.rglob("*_polygons.json"):
        assert instance_png(labels).is_file()
