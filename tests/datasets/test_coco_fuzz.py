"""COCO json under generated damage: the records of Detectron2's own loader, or one line.

    NDS_FUZZ_EXAMPLES=2000 NDS_FUZZ_SEED=1 pytest tests/test_coco_fuzz.py

makes the number of examples and their seed; without a seed it is another one each time, and a failure prints it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, note, seed, settings
from hypothesis import strategies as st

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from nds_plugin.d2.data.registration import dataset_dicts, registered_temporarily
from nds_plugin.d2.train.evaluation import build_evaluator, check_ground_truth
from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.store.boxes import clipped
from nds_plugin.store.records import RecordDecoder

EXAMPLES = int(os.getenv("NDS_FUZZ_EXAMPLES", "60"))
SEED = int(os.getenv("NDS_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
SIZE = (64, 48)  # of every image, also of those whose size the json does not tell
TWICE = "\x01"  # in a key: the key without it, which is then there twice
MARK = json.dumps(TWICE)[1:-1]

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning"),
]


def base() -> dict[str, Any]:
    """A small file that holds all that a reader looks at."""
    polygon = [[4.5, 4, 14, 4, 14, 14], [20, 20, 30, 20, 30, 30, 20, 30]]
    text = mask_util.encode(np.asfortranarray(np.eye(48, 64, dtype=np.uint8)))["counts"].decode()
    masks: list[Any] = [
        polygon,
        {"size": [48, 64], "counts": text},
        {"size": [48, 64], "counts": [9, 40, 3023]},
        [],
        polygon,
    ]
    boxes = [[4, 4, 10.5, 10], [20, 4, 8, 8], [40, 4, 8, 8], [0, 0, 20, 10], [0, 0, 60, 40]]
    annotations = [
        {
            "id": i + 1, "image_id": (12, 12, 3, 3, 20)[i], "category_id": (5, 2, 2, 5, 2)[i], "bbox": box,
            "area": box[2] * box[3], "iscrowd": int(i == 2), "segmentation": mask,
        }
        for i, (box, mask) in enumerate(zip(boxes, masks))
    ]  # fmt: skip
    annotations[0]["keypoints"] = [5, 6, 2, 7.5, 8, 1]
    annotations[1]["ignore"] = 0
    return {
        "info": {"year": 2026},
        "licenses": [{"id": 7, "name": "CC BY 4.0"}],
        "images": [
            {
                "id": i,
                "file_name": f"{i}.jpg",
                "width": 64,
                "height": 48,
                "license": 7,
                "coco_url": "http://x/b",
            }
            for i in (12, 3, 20)
        ],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat", "supercategory": "animal"}],
    }


JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 12, 0.0, 1.0, 1.5, -0.0, 5.0, 3.0, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**25,
    10**400, 1e300, 1e308, float("nan"), float("inf"), -float("inf"), "", "0", "1", "5", "12", "abc", "\ud83d", "a\0b", "é\n", "12.0",
    [], {}, [None], [[]], [[[]]], {"a": 1}, [0, 0, 5, 5], [60, 40, 30, 30], [-5, -5, 10, 10], [1, 2, 3, "4"], [0, 0, 0, 0],
    [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4, 5, None]], {"size": [48, 64], "counts": [3072]},
    {"size": [24, 32], "counts": [768]}, {"size": [48, 64]}, {"counts": "abc", "size": None}, {"id": 1, "name": "x"},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a document."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


PLACES = tuple(places(base()))
# The interesting ones, which would drown among coordinates.
KEYS = tuple(path for path in PLACES if len(path) <= 3)


def other_type(value: Any) -> Any:
    """The same value in another type or container."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return list(value)
    return {str(i): v for i, v in enumerate(value)} if isinstance(value, list) else list(value.values())


def as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and abs(value) < 2**60 else value


CHANGES = {
    "junk": lambda value, junk: junk,
    "type": lambda value, junk: other_type(value),
    "float": lambda value, junk: as_float(value),
    "nest": lambda value, junk: [value],
    "unnest": lambda value, junk: value[0] if isinstance(value, list) and value else junk,
    "append": lambda value, junk: [*value, junk] if isinstance(value, list) else junk,
    "repeat": lambda value, junk: [*value, *copy.deepcopy(value)] if isinstance(value, list) else value,
    "reverse": lambda value, junk: value[::-1] if isinstance(value, (list, str)) else value,
}

one_change = st.tuples(
    st.sampled_from(KEYS) | st.sampled_from(PLACES),
    st.sampled_from(["drop", "copy", "twice", "all", "junk", "junk", *CHANGES]),
    st.sampled_from(JUNK),
    st.sampled_from(PLACES),
)


def apply(document: Any, path: tuple[Any, ...], what: str, junk: Any, other: tuple[Any, ...]) -> None:
    """Change a document in place; where an earlier change took the place away, nothing happens."""
    try:
        holder = get(document, path[:-1])
        value = holder[path[-1]]
        if what == "drop":
            del holder[path[-1]]
        elif what == "twice":
            holder[f"{path[-1]}{TWICE}"] = junk
        elif what == "all":  # of one kind: as another tool would have written them
            for item in document[path[0]]:
                item[path[2]] = other_type(item[path[2]]) if junk is None else copy.deepcopy(junk)
        elif what == "copy":
            holder[path[-1]] = copy.deepcopy(get(document, other))
        else:
            holder[path[-1]] = CHANGES[what](value, copy.deepcopy(junk))
    except (KeyError, IndexError, TypeError, OverflowError):
        return


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def file_size(path: str) -> tuple[int, int]:
    return SIZE


def ours(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    store = open_coco(path)
    decode = RecordDecoder(store, "images", BoxMode.XYWH_ABS, file_size)
    return [decode(i) for i in range(len(store))], store.classes


def stock(path: Path) -> tuple[list[dict[str, Any]], list[str]] | None:
    """What Detectron2 makes of the file; None where it does not read it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read = load_coco_json(str(path), "images", "fuzzed_coco")
        return read, list(MetadataCatalog.get("fuzzed_coco").thing_classes)
    except Exception:
        return None
    finally:
        MetadataCatalog.pop("fuzzed_coco", None)


def mended(record: dict[str, Any]) -> dict[str, Any]:
    """A record of Detectron2's with what it gets wrong put right.

    * A size that is missing (0 or null) is that of the file.
    * Boxes are clipped to the image, those without an area in it dropped.
    * ``iscrowd`` null is 0, ``keypoints`` of null or nothing are none.
    * Run lengths carry their size and counts alone; all other numbers are floats.
    """
    width, height = record["width"], record["height"]
    if not (width and height):
        limits = np.array([[width or 0, height or 0]], np.float64)
        width, height = SIZE
    else:
        limits = np.array([[width, height]], np.float64)
    annotations = []
    for annotation in record["annotations"]:
        box, _, empty = clipped(np.array([annotation["bbox"]], np.float64), limits)
        if empty[0]:
            continue
        new = {**annotation, "bbox": box[0].tolist()}
        if new.get("iscrowd", 0) is None:
            new["iscrowd"] = 0
        if isinstance(new.get("segmentation"), dict):
            new["segmentation"] = {key: new["segmentation"][key] for key in ("size", "counts")}
        elif "segmentation" in new:
            new["segmentation"] = [list(map(float, polygon)) for polygon in new["segmentation"]]
        if not new.get("keypoints", True):
            del new["keypoints"]
        elif "keypoints" in new:
            new["keypoints"] = list(map(float, new["keypoints"]))
        annotations.append(new)
    return {**record, "width": width, "height": height, "annotations": annotations}


def evaluate_perfect(path: Path, folder: Path) -> None:
    """Evaluate the truth against itself: what can go wrong is told before."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder / "out")
    with registered_temporarily("fuzzed", json_file=str(path), image_root=str(folder)):
        check_ground_truth("fuzzed")
        evaluator = build_evaluator(cfg, "fuzzed")
        evaluator.reset()
        for record in dataset_dicts("fuzzed"):
            evaluator.process([record], [{"instances": perfect(record)}])
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator.evaluate()


def perfect(record: dict[str, Any]) -> Instances:
    annotations = [a for a in record["annotations"] if not a.get("iscrowd")]
    size = record["height"], record["width"]
    found = Instances(size)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4))
    found.scores = torch.ones(len(annotations))
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    found.pred_masks = torch.zeros(len(annotations), *size, dtype=torch.bool)
    return found


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@seed(SEED)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(one_change, min_size=1, max_size=3))
def test_a_damaged_file_gives_the_records_of_detectron2_or_one_line(changes: list[Any]) -> None:
    note(f"NDS_FUZZ_SEED={SEED} NDS_FUZZ_EXAMPLES={EXAMPLES}, changes {changes!a}")
    document = base()
    for change in changes:
        apply(document, *change)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "train.json"
        path.write_text(json.dumps(document).replace(MARK, ""))
        written = json.loads(path.read_text())
        try:
            records, classes = ours(path)
        except NDSError as error:
            assert "\n" not in str(error)
            str(error).encode()
            event("refused when read")
            return
        expected = stock(path)
        event("read here alone" if expected is None else "read by both")
        if expected is not None:
            assert classes == expected[1]
            assert records == [mended(record) for record in expected[0]]
        try:
            evaluate_perfect(path, folder)
            event("evaluated")
        except ImageError:  # no image is there
            assert any(not (image.get("width") and image.get("height")) for image in written["images"])
        except NDSError as error:
            assert "\n" not in str(error)


def test_the_whole_file_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(base()))
    expected = stock(path)
    assert expected is not None
    assert ours(path) == ([mended(record) for record in expected[0]], expected[1])
    assert sum(len(record["annotations"]) for record in expected[0]) == 5
