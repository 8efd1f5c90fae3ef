"""Mistakes in the main job's config and data: refused before hours of work, in one line, on any process."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from as_user import ROOT, SPOIL, User, cut, edit_json, full_disk, litter
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch.utils.data import DataLoader

from nds_plugin import command_line
from nds_plugin.commands.train import parse_arguments
from nds_plugin.d2.data.known_datasets import register_coco_folder
from nds_plugin.d2.job.launching import launch
from nds_plugin.errors import NDSError

pytestmark = pytest.mark.slow  # processes of their own, each with Detectron2 or a server

SMALL = [
    *("DATASETS.TRAIN", "('bad_city_train',)", "DATASETS.TEST", "('bad_city_val',)"),
    *("NDS.SOURCE.DATASETS", "('bad_street_train', 'bad_room_train')"),
    *("NDS.PARTITION.NUM_CLUSTERS", "2", "NDS.EXPERTS.STEPS", "2", "NDS.EXPERTS.SHARED_STEPS", "2"),
    *("NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.BATCH_SIZE", "4", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.BUDGET.SHARE", "0.5"),
    *("NDS.TARGET.NUM_IMAGES", "0", "NDS.PRETRAIN.SOLVER.MAX_ITER", "2", "NDS.PRETRAIN.SOLVER.STEPS", "()"),
    *("NDS.PRETRAIN.SOLVER.IMS_PER_BATCH", "4", "NDS.PRETRAIN.INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture
def data(tiny_datasets: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the tiny domains, registered as ``bad_<domain>_<split>``, to be spoilt."""
    shutil.copytree(tiny_datasets, tmp_path / "data")
    names = register_coco_folder(tmp_path / "data", "bad")
    yield tmp_path / "data"
    for name in [name for name in DatasetCatalog.list() if name.startswith("bad_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert names


def _arguments(
    folder: Path, *overrides: str, flags: tuple[str, ...] = (), config: str = "nds_sample.yaml"
) -> list[str]:
    own = ["OUTPUT_DIR", str(folder / "out"), "NDS.WORK_DIR", str(folder / "work")]
    return ["--config", config, *flags, *SMALL, *own, *overrides]


CONFIG: dict[str, tuple[list[str], str]] = {
    "unknown source": (["NDS.SOURCE.DATASETS", "('bad_stret_train',)"], "unknown dataset 'bad_stret_train'. Did you mean 'bad_street_train'"),
    "unknown target": (["NDS.TARGET.DATASETS", "('nowhere',)"], "unknown dataset 'nowhere'. nds datasets --list lists all"),
    "no source": (["NDS.SOURCE.DATASETS", "()"], "NDS.SOURCE.DATASETS is empty"),
    "source is text": (["NDS.SOURCE.DATASETS", "bad_street_train"], "NDS.SOURCE.DATASETS must be a tuple, got text .write"),
    "no target": (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN and DATASETS.TEST must name"),
    "unknown sampler": (["DATALOADER.SAMPLER_TRAIN", "TraningSampler"], "unknown DATALOADER.SAMPLER_TRAIN .* Did you mean 'TrainingSampler'"),
    "unknown selector": (["NDS.SELECTOR", "nsd"], "unknown NDS.SELECTOR 'nsd'. Did you mean 'nds'. Known: domain_classifier"),
    "unknown mode": (["NDS.MODE", "subsett"], "unknown NDS.MODE 'subsett'"),
    "unknown normalisation": (["NDS.NORMALISATION", "maxmin"], "unknown NDS.NORMALISATION 'maxmin'"),
    "unknown metric": (["NDS.SCORING.METRIC", "acc"], "unknown NDS.SCORING.METRIC 'acc'"),
    "unknown method": (["NDS.PARTITION.METHOD", "kmean"], "unknown NDS.PARTITION.METHOD 'kmean'"),
    "unknown task": (["NDS.EXPERTS.TASK", "rotate"], "unknown NDS.EXPERTS.TASK 'rotate'"),
    "unknown optimizer": (["NDS.OPTIMIZER", "Adam"], "unknown NDS.OPTIMIZER 'Adam'. Did you mean 'AdamW'"),
    "key mistyped": (["NDS.BUGDET.SHARE", "0.5"], "unknown config key NDS.BUGDET.SHARE. Did you mean 'NDS.BUDGET.SHARE'"),
    "key mistyped in pretraining": (["NDS.PRETRAIN.SOLVER.MAX_ITERS", "5"], "unknown config key NDS.PRETRAIN.SOLVER.MAX_ITERS. Did you mean 'SOLVER.MAX_ITER'"),
    "wrong type": (["NDS.TEMPERATURE", "warm"], "NDS.TEMPERATURE must be a number, got text"),
    "a value for a node": (["NDS.SOURCE", "('street',)"], r"NDS.SOURCE holds keys of its own \(DATASETS, LABEL_MAPPING\), got a tuple."),
    "wrong type in pretraining": (["NDS.PRETRAIN.SOLVER.GAMMA", "low"], "NDS.PRETRAIN.SOLVER.GAMMA must be a number"),
    "key without value": (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' at the end is not a pair"),
    "no budget": (["NDS.BUDGET.SHARE", "0.0"], "budget as a number of images or as a share .*: got 0 images and a share of 0"),
    "T of 0": (["NDS.TEMPERATURE", "0.0"], "NDS.TEMPERATURE must be above 0, got 0.0"),
    "K of 0": (["NDS.PARTITION.NUM_CLUSTERS", "0"], "NDS.PARTITION.NUM_CLUSTERS must be 1 or more, got 0"),
    "no GPU here": (["MODEL.DEVICE", "cuda:63"], "GPU"),
    "no such device": (["MODEL.DEVICE", "gpu"], "unknown device 'gpu': expected 'cpu'"),
    "a selection given": (["NDS.SELECTION", "x.parquet"], "NDS.SELECTION x.parquet would not be looked at"),
    "scoring again in a subset": (["NDS.RESCORE.ITERS", "(2,)"], "NDS.RESCORE.ITERS needs NDS.SELECTOR nds, NDS.MODE stream"),
    "scoring again before the first iteration": (["NDS.MODE", "stream", "NDS.RESCORE.ITERS", "(0,)"], r"NDS.RESCORE.ITERS must be whole numbers of 1 or more, got \[0\]"),
    "more than all images unreadable": (["NDS.LOADER.MAX_UNREADABLE", "1.5"], "NDS.LOADER.MAX_UNREADABLE must be 0 to 1, got 1.5"),
    "no iterations": (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER must be 1 or more, got 0"),
    "no initial weights": (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS: no such file: nowhere.pth"),
    "seed below 0": (["NDS.SEED", "-1"], "NDS.SEED must be 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG)
def test_a_bad_config_is_refused_before_anything_starts(case: str, data: Path, user: User) -> None:
    overrides, message = CONFIG[case]
    line = user.fails("train_net", *_arguments(data, *overrides))
    assert re.search(message, line), line
    assert not (data / "work").exists() or not list((data / "work").iterdir())


def test_initial_weights_are_refused_before_anything_is_made(
    data: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of pretraining alone, a link without a network, and what would be a traceback in training."""
    monkeypatch.setenv("FVCORE_CACHE", str(data / "cache"))
    torch.save({"meta": {}, "state_dict": {"backbone.patch_embed.weight": torch.zeros(3)}}, data / "mm.pth")
    (data / "cut.pth").write_bytes(b"PK\x03\x04")
    for overrides, message in (
        (
            ["MODEL.WEIGHTS", str(data / "mm.pth")],
            r"mm.pth does not fit: 0 of the backbone's 100 weights .*MMCV",
        ),
        (["NDS.PRETRAIN.MODEL.WEIGHTS", str(data / "cut.pth")], "cut.pth cannot be read .*, or is cut short"),
        (["MODEL.WEIGHTS", "http://127.0.0.1:9/w.pth"], "w.pth is not in the cache .*Connection refused"),
        (["MODEL.WEIGHTS", str(data)], "is a folder, expected a checkpoint file"),
    ):
        line = user.fails("train_net", *_arguments(data, *overrides))
        assert re.search(f"MODEL.WEIGHTS.*{message}", line), line
        assert not (data / "work").exists() or not list((data / "work").iterdir())


FLAGS: dict[str, tuple[tuple[str, ...], str]] = {
    "not a multiple of the processes": (("--num-gpus", "3"), "SOLVER.IMS_PER_BATCH must be .*multiple of the 3 processes .* got 4"),
    "no process": (("--num-gpus", "0"), "--num-gpus must be 1 or more, got 0"),
    "wrong type": (("--num-gpus", "two"), "command line: argument --num-gpus: invalid int value: 'two'"),
    "no such machine": (("--machine-rank", "1"), "--machine-rank must be 0 to 0 on 1 machines, got 1"),
    "two ends": (("--select-only", "--eval-only"), "argument --eval-only: not allowed with argument --select-only"),
    "nothing to evaluate": (("--eval-only",), "--eval-only: no weights at .*model_final.pth: train first"),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAGS)
def test_a_bad_flag_is_refused(case: str, data: Path, user: User) -> None:
    flags, message = FLAGS[case]
    line = user.fails("train_net", *_arguments(data, flags=flags))
    assert re.search(message, line), line


def test_options_of_the_main_job_may_stand_after_the_changes_of_keys() -> None:
    line = "--config x.yaml SEED 1 --select-only SOLVER.BASE_LR -1 --num-gpus 2"
    args = parse_arguments(line.split())
    assert (args.config_file, args.select_only, args.num_gpus) == ("x.yaml", True, 2)
    assert args.opts == ["SEED", "1", "SOLVER.BASE_LR", "-1"]
    with pytest.raises(NDSError, match=r"unrecognized arguments: --selct-only.*Did you mean '--select-only'"):
        parse_arguments([*line.split(), "--selct-only"])


def test_select_only_of_a_job_that_selects_nothing_is_refused(data: Path, user: User) -> None:
    line = user.fails("train_net", *_arguments(data, "NDS.SELECTOR", "none", flags=("--select-only",)))
    assert re.search("--select-only: the selector is none, which selects nothing", line), line


FILES: dict[str, tuple[bytes, str]] = {
    "key mistyped": (b"NDS:\n  TEMPERATUR: 0.1\n", "unknown config key NDS.TEMPERATUR. Did you mean 'NDS.TEMPERATURE'"),
    "not YAML": (b"NDS: [\n", "mine.yaml is not plain YAML: .*line 2"),
    "not text": (b"\xff\xfe\x00", "mine.yaml is not a text file"),
    "no keys": (b"- 1\n", "mine.yaml: expected lines of KEY: value, got a list"),
    "empty": (b"", "mine.yaml: expected lines of KEY: value, got nothing"),
    "a value for a node": (b"NDS: 5\n", "mine.yaml: NDS holds keys of its own, got the value 5"),
    "no base": (b"_BASE_: nowhere.yaml\n", "cannot read the config .*nowhere.yaml, the _BASE_ of .*mine.yaml: No such"),
    "its own base": (b"_BASE_: mine.yaml\n", "mine.yaml is based on itself"),
    "runs code": (b"OUTPUT_DIR: !!python/object/apply:os.mkdir ['PROOF']\n", "mine.yaml is not plain YAML: .*os.mkdir"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_bad_config_file_is_refused_and_runs_no_code(
    case: str, data: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = FILES[case]
    monkeypatch.chdir(data)
    (data / "mine.yaml").write_bytes(content)
    line = user.fails("train_net", *_arguments(data, config="mine.yaml"))
    assert re.search(message, line), line
    assert not (data / "PROOF").exists()
    assert "unknown config 'mien.yaml'" in user.fails("train_net", "--config", "mien.yaml")


def _photos(domain: str, kind: str, split: str = "train", count: int | None = None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        photos = sorted((root / domain / "images").glob(f"{split}*"))
        assert photos
        for photo in photos[:count]:
            SPOIL[kind](photo)

    return spoil


def _annotations(
    domain: str, change: Callable[[dict[str, Any]], Any], split: str = "train"
) -> Callable[[Path], None]:
    return lambda root: edit_json(root / domain / f"{split}.json", change)


def _every_box(document: dict[str, Any], box: list[float]) -> None:
    for annotation in document["annotations"]:
        annotation["bbox"] = box


def _rename(document: dict[str, Any]) -> None:
    for category in document["categories"]:
        category["name"] = f"no {category['name']}"


def _every(document: dict[str, Any], **values: Any) -> None:
    for annotation in document["annotations"]:
        annotation.update(values)


def _small_masks(document: dict[str, Any]) -> None:
    """One mask of half the size, in images whose size only their files tell."""
    for image in document["images"]:
        del image["width"], image["height"]
    document["annotations"][0]["segmentation"] = {"size": [36, 48], "counts": [0, 36 * 48]}


def _every_mask(document: dict[str, Any], mask: Any) -> None:
    for annotation in document["annotations"]:
        annotation["segmentation"] = mask


UNIFORM = ["NDS.SELECTOR", "uniform"]
ROOM = ["NDS.SOURCE.DATASETS", "('bad_room_train',)"]
LINK = ["MODEL.WEIGHTS", "http://127.0.0.1:9/w.pth"]
REQUIRED = ["NDS.TRANSFER.REQUIRE_SHARED_CLASSES", "True"]
DATA: dict[str, tuple[Callable[[Path], Any] | None, list[str], str]] = {
    "annotations of the source missing": (lambda r: (r / "room/train.json").unlink(), [], "annotation file not found: .*room/train.json"),
    "data before weights, which might be downloaded": (lambda r: (r / "room/train.json").unlink(), LINK, "annotation file not found: .*room/train.json"),
    "the target before weights": (lambda r: (r / "city/train.json").unlink(), LINK, "annotation file not found: .*city/train.json"),
    "annotations of the source cut short": (lambda r: cut(r / "room/train.json"), [], "room/train.json is not complete JSON"),
    "annotations of the target cut short": (lambda r: cut(r / "city/train.json"), [], "city/train.json is not complete JSON"),
    "annotations of the test set cut short": (lambda r: cut(r / "city/val.json"), [], "city/val.json is not complete JSON"),
    "not COCO": (_annotations("street", lambda _: {"a": 1}), [], "street/train.json is not COCO json: it lacks 'images'"),
    "image ids twice": (_annotations("street", lambda d: d["images"].append(d["images"][0])), [], "1 ids of 'images' occur more than once"),
    "a test set of crowds": (_annotations("city", lambda d: _every(d, iscrowd=1), "val"), [], "'bad_city_val': all \\d+ annotations are crowds .iscrowd 1.: COCO's evaluation counts none"),
    "a target of crowds": (_annotations("city", lambda d: _every(d, iscrowd=1)), [], "'bad_city_train': none of its 24 images has an annotation to learn from: all \\d+ annotations are crowds .iscrowd 1"),
    "a source of crowds and ignored": (_annotations("room", lambda d: _every(d, ignore=1)), ROOM, "none of the 24 images of bad_room_train has an annotated object: all \\d+ annotations are crowds .iscrowd 1, or ignore 1"),
    "half a character in a class": (_annotations("city", lambda d: d["categories"][0].update(name="\ud83d"), "val"), [], "city/val.json: the class name .* holds half a character .a lone surrogate., which cannot be written"),
    "category ids as text in the annotations": (_annotations("street", lambda d: [a.update(category_id=str(a["category_id"])) for a in d["annotations"]] and None), [], "annotations name their categories by text, but the ids of 'categories' are whole numbers"),
    "masks of another size than the files": (_annotations("room", lambda d: _small_masks(d)), [*ROOM, *UNIFORM], "room/images/.*: 1 of its \\d+ annotations have a mask that is not of the image's size, the first one: expected 96 x 72, got 48 x 36"),
    "masks of another size in the test set": (_annotations("city", lambda d: _small_masks(d), "val"), [], "city/images/.*: 1 of its \\d+ annotations have a mask that is not of the image's size"),
    "an image of 10^12 pixels width": (_annotations("street", lambda d: d["images"][0].update(width=10**12)), [], "'width' of image .* must be a number of 0 .*got 1000000000000"),
    "no box of the source has an area": (_annotations("room", lambda d: _every_box(d, [5, 5, 0, 0])), ROOM, "none of the 24 images of bad_room_train has an annotated object"),
    "all boxes of the target leave it": (_annotations("city", lambda d: _every_box(d, [500, 5, 9, 9])), [], "'bad_city_train': none of its 24 images has an annotation"),
    "masks are numbers": (_annotations("street", lambda d: _every_mask(d, 5)), UNIFORM, "annotation .* of image .* has a segmentation that is neither polygons"),
    "masks are text": (_annotations("street", lambda d: _every_mask(d, [list("abcdef")])), UNIFORM, "annotation 1 of image .* has a segmentation that is neither polygons"),
    "test set of other classes": (None, ["DATASETS.TEST", "('bad_room_val',)"], "'bad_room_val' has the classes chair.*'bad_city_train'.* has bicycle"),
    "no shared class": (_annotations("room", _rename), [*ROOM, *REQUIRED], "source and target share no class .source: no chair.* target: bicycle"),
    "no such mapping": (None, ["NDS.SOURCE.LABEL_MAPPING", "no.json"], "class mapping file not found: no.json"),
    "target too small": (None, ["NDS.TARGET.NUM_IMAGES", "25"], "expected at most the 24 images of 'bad_city_train', got 25"),
    "budget beyond the source": (None, ["NDS.BUDGET.SHARE", "0.0", "NDS.BUDGET.IMAGES", "49"], "budget must be 1 to 48, .* got 49"),
    "K beyond the source": (None, ["NDS.PARTITION.NUM_CLUSTERS", "49"], "cannot cut 48 images into 49 clusters"),
    "images of the source missing": (_photos("room", "missing"), [], "24 image files of the source are missing, first .*room"),
    "images of the target missing": (_photos("city", "missing"), [], "'bad_city_train': 24 of 24 image files are missing .*DETECTRON2_DATASETS"),
    "an image of the test set missing": (_photos("city", "missing", "val", 1), [], "'bad_city_val': 1 of 6 image files are missing"),
    "bombs in the source": (_photos("room", "decompression bomb"), [], "24 of 48 images cannot be read, .*decompression bomb"),
    "truncated source": (_photos("room", "truncated"), UNIFORM, "images cannot be read, more than NDS.LOADER.MAX_UNREADABLE allows .*truncated"),
    "source of no images": (_photos("room", "not an image"), [*UNIFORM, "DATALOADER.NUM_WORKERS", "2"], "images cannot be read, more than NDS.LOADER.MAX_UNREADABLE allows"),
    "empty files in the target": (_photos("city", "zero bytes"), [], r"none of the target's 24 images can be read; .*0 bytes"),
    "a test image cut short": (_photos("city", "truncated", "val", 1), UNIFORM, "'bad_city_val': 1 of 6 test images cannot be read, .*city/images/val_.*: the image is cut short .*truncated"),
}  # fmt: skip


def test_a_damaged_test_image_is_refused_before_anything_is_made(data: Path, user: User) -> None:
    for kind, photo in zip(("truncated", "not an image"), sorted((data / "city/images").glob("val_*"))):
        SPOIL[kind](photo)
    line = user.fails("train_net", *_arguments(data, *UNIFORM))
    assert re.search(
        "'bad_city_val': 2 of 6 test images cannot be read, .*val_.*truncated.*; .*val_.*not an image", line
    ), line
    assert not (data / "work").exists() or not list((data / "work").iterdir())


@pytest.mark.parametrize("case", DATA)
def test_bad_data_ends_in_one_line(case: str, data: Path, user: User) -> None:
    spoil, overrides, message = DATA[case]
    if spoil:
        spoil(data)
    line = user.fails("train_net", *_arguments(data, *overrides))
    assert re.search(message, line), line
    assert not litter(data)


def test_a_full_disk_keeps_what_was_finished_and_the_next_start_goes_on(data: Path, user: User) -> None:
    with full_disk(2_000_000):  # bytes; the selection is smaller, a checkpoint larger
        line = user.fails("train_net", *_arguments(data, *UNIFORM))
    assert re.search(
        r"disk full while writing .*out/pretrain/model_final.pth: nothing was changed; free some", line
    )
    finished = {path: path.stat().st_mtime_ns for path in (data / "work").glob("[!.]*")}  # no locks
    assert {path.name.split("-")[0] for path in finished} == {"index", "selection"}
    assert not litter(data)
    user.runs("train_net", *_arguments(data, *UNIFORM))
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    assert (data / "out/pretrain/model_final.pth").is_file()


def test_a_disk_that_is_full_for_detectron2_is_told_too_and_defects_are_not() -> None:
    hidden = RuntimeError("PytorchStreamWriter failed writing file")
    hidden.__context__ = OSError(errno.ENOSPC, "No space left on device", "out/predictions.pth")
    assert str(command_line.users_mistake(hidden)).startswith(
        "disk full while writing out/predictions.pth: free"
    )
    forbidden = PermissionError(errno.EACCES, "Permission denied", "x")
    assert command_line.users_mistake(forbidden) == "x: Permission denied: allow it and start again."
    for defect in (KeyError("a defect"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        assert command_line.users_mistake(defect) is None


class _Broken(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> int:
        raise NDSError(f"image {position} is broken:\n get it again.")


def _work(_: argparse.Namespace) -> None:
    """Rank 1 meets bad input, in a worker of its loader; rank 0 waits for it and only loses the connection."""
    torch.set_num_threads(1)
    if comm.get_rank() == 1:
        next(iter(DataLoader(_Broken(), num_workers=1)))
    comm.synchronize()


def test_the_error_of_a_worker_in_a_rank_is_the_one_that_is_told() -> None:
    args = argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        pytest.skip("detectron2's launch wants one GPU for each of two processes where there is one")
    with pytest.raises(NDSError) as raised:
        launch(_work, args)
    assert str(raised.value) == "image 0 is broken: get it again."


def test_the_main_job_on_two_processes_ends_in_the_same_line(data: Path) -> None:
    _photos("room", "decompression bomb")(data / "room" / "..")
    names = [
        text.replace("bad_", "nds_data_")
        for text in _arguments(data, *UNIFORM, flags=("--num-gpus", "2", "--dist-url", "auto"))
    ]
    (data / "nds").mkdir()
    (data / "nds" / "detection").symlink_to(data)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "tools/train_net.py"),
            *names,
            "DATALOADER.NUM_WORKERS",
            "1",
        ],
        env={**os.environ, "NDS_DATA": str(data / "nds"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,  # a process left behind would keep the pipes open
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: 1 of ")
    assert "decompression bomb" in done.stderr.rstrip().splitlines()[-1]
    assert "Traceback" not in done.stderr
