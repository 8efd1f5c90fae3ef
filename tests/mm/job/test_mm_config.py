"""Configs of the main job in MMDetection: those that are installed, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmengine", reason="MMDetection is not installed (make install)")

from as_user import edit_json
from mm_jobs import write_config

from nds_plugin.commands import train_mm
from nds_plugin.errors import NDSError
from nds_plugin.mm.config.loading import CONFIGS, load_config, merged
from nds_plugin.mm.job.checks import warn_of_batches
from nds_plugin.mm.job.main_job import MainJob
from nds_plugin.mm.job.stage_configs import training_key


@pytest.fixture(scope="module")
def config(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("mm") / "tiny.py", tiny_datasets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cityscapes", "voc", "modanet", "sample", "mini"])
@pytest.mark.parametrize("selector", ["nds", "uniform", "full", "none"])
def test_every_config_loads_under_every_name(selector: str, name: str) -> None:
    job = load_config(f"{selector}_{name}.py")
    assert selector == job.nds.SELECTOR
    assert job.work_dir == Path(f"output/nds_{name}_mm/{selector}")
    assert job.nds.PRETRAIN.train_cfg.max_iters >= 1
    if selector != "none":
        assert job.settings(tuple(job.nds.TARGET.TRAIN)).sources == tuple(job.nds.SOURCE.DATASETS)


@pytest.mark.slow
def test_the_whole_source_is_trained_on_by_a_schedule_of_its_own() -> None:
    assert load_config("full_cityscapes.py").nds.PRETRAIN.train_cfg.max_iters == 90000
    assert load_config("nds_cityscapes.py").nds.PRETRAIN.train_cfg.max_iters == 17500


def test_a_preset_of_the_command_line_lies_over_the_file_and_under_the_other_options() -> None:
    nds = load_config("nds_mini.py", {"nds.preset": "paper", "nds.temperature": 0.5}).nds
    assert (nds.EXPERTS.KIND, nds.SCORING.METRIC, nds.PARTITION.NUM_CLUSTERS) == ("network", "accuracy", 50)
    assert nds.TEMPERATURE == 0.5
    assert load_config("nds_mini.py").nds.EXPERTS.KIND == "head"


def test_a_boxes_only_target_is_pretrained_for_with_masks() -> None:
    job = load_config("nds_voc.py")
    assert job.cfg.model.roi_head.get("mask_head") is None
    assert merged(job.cfg, job.nds.PRETRAIN).model.roi_head.mask_head.num_classes == 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nds.selector": "nsd"}, "unknown nds.selector 'nsd'. Did you mean 'nds'"),
        ({"nds.buget": 3}, "unknown key nds.buget. Did you mean 'budget'"),
        ({"nds.budget.share": "many"}, "nds.budget.share must be a number, got 'many'"),
        ({"nds.target.test": []}, "nds.target must name the target's training and test datasets"),
        ({"nds.preset": "papr"}, "unknown nds.preset 'papr'"),
        ({"nds.target.num_images": -5}, r"nds.target.num_images must be 0 \(all images\) or more, got -5"),
        ({"nds.seed": 1.5}, "nds.seed must be a whole number, got 1.5"),
        ({"nds.rescore.iters": [2]}, "nds.rescore.iters needs nds.selector nds"),
        (
            {"nds.rescore.iters": [0], "nds.selector": "nds", "nds.mode": "stream"},
            r"nds.rescore.iters must be whole numbers of 1 or more, got \[0\]",
        ),
        ({"nds.loader.max_unreadable": 1.5}, "nds.loader.max_unreadable must be 0 to 1, got 1.5"),
        (
            {"nds.selector": "none", "nds.loader.max_unreadable": -1},
            "nds.loader.max_unreadable must be 0 to 1, got -1",
        ),
        ({"default_scope": "mmseg"}, "default_scope is 'mmseg'"),
        ({"default_scope": None}, "default_scope is None"),
        ({"train_dataloader.sampler": {"type": "NDSInfinitSampler"}}, "Did you mean 'NDSInfiniteSampler'"),
        ({"train_dataloader.sampler": {"type": "ClassAwareSampler"}}, "the job draws by NDSInfiniteSampler"),
        ({"train_cfg.max_iters": 0}, "train_cfg must have max_iters of 1 or more, got 0"),
        ({"trian_cfg.max_iters": 3}, "unknown part of config .* 'trian_cfg'. Did you mean 'train_cfg'"),
        ({"param_scheduler": [{"type": "LinearLR"}]}, "param_scheduler LinearLR counts in epochs"),
        (
            {"param_scheduler": [{"type": "LinearLR", "by_epoch": True, "convert_to_iter_based": True}]},
            "param_scheduler LinearLR counts in epochs.*without convert_to_iter_based",
        ),
        ({"param_scheduler": [{"type": "LinerLR", "by_epoch": False}]}, "param_scheduler.type 'LinerLR'"),
        (
            {"nds.pretrain.trian_cfg.max_iters": 3},
            "key of nds.pretrain .* 'trian_cfg'. Did you mean 'train_cfg'",
        ),
        ({"nds.full.pretrain": {"model_": {}}}, "key of nds.full.pretrain .* 'model_'. Did you mean 'model'"),
        ({"nds.pretrain.train_cfg.max_iters": 0}, "nds.pretrain: train_cfg must have max_iters of 1 or more"),
        ({"nds.pretrain.model.roi_head": None}, "nds.pretrain.model MaskRCNN has no roi_head"),
        (
            {"nds.pretrain.train_dataloader.dataset.pipeline": None},
            "nds.pretrain: train_dataloader must have",
        ),
        ({"nds.target": 5}, r"nds.target must be dict\(...\), got 5"),
        (
            {"nds.datasets.x": {"ann_file": 3, "images": "folder"}},
            r"nds.datasets.x: expected dict\(ann_file='x.json', images='folder'\), got .*3",
        ),
        ({"train_dataloader": 5}, "train_dataloader must be dict.*got 5"),
        (
            {"train_dataloader.num_workers": "two"},
            "num_workers must be a whole number of 0 or more, got 'two'",
        ),
        (
            {"train_dataloader.dataset": {"type": "MultiImageMixDataset", "dataset": {}, "pipeline": [{}]}},
            "train_dataloader.dataset is MultiImageMixDataset around other datasets",
        ),
        (
            {"train_dataloader.dataset.pipeline": [{"type": "RandomFlop"}]},
            "unknown step of train_dataloader.dataset.pipeline 'RandomFlop'. Did you mean 'RandomFlip'",
        ),
        ({"optim_wrapper.optimizer.type": "SDG"}, "optim_wrapper.optimizer.type 'SDG'. Did you mean 'SGD'"),
        ({"model.roi_head.type": "StandardRoIHed"}, "model.roi_head.type 'StandardRoIHed'. Did you mean"),
        ({"load_from": "missing.pth"}, "load_from: checkpoint not found: missing.pth"),
        ({"model.type": "MaskRCN"}, "unknown model.type 'MaskRCN'. Did you mean 'MaskRCNN'"),
        (
            {"train_dataloader.batch_size": 0},
            "train_dataloader.batch_size, the images of a process, must be 1",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    config: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(NDSError, match=message) as caught:
        MainJob(load_config(str(config), options, str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, []),
        ({"auto_scale_lr.base_batch_size": 2}, []),
        ({"auto_scale_lr": {"enable": True, "base_batch_size": 16}}, []),
        (
            {"auto_scale_lr.base_batch_size": 16, "nds.pretrain.train_dataloader.batch_size": 16},
            ["train_dataloader: an iteration takes 2 images (2 a process, processes: 1), but learning rate and schedule are for 16"],
        ),
    ],
)  # fmt: skip
def test_a_batch_that_the_schedule_is_not_for_is_told(
    config: Path,
    tmp_path: Path,
    options: dict[str, object],
    told: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_batches(load_config(str(config), options, str(tmp_path)), 1)
    found = [line for line in caplog.messages if "auto_scale_lr" in line]
    assert [line.partition(" (auto_scale_lr")[0] for line in found] == told


@pytest.mark.parametrize(
    ("name", "processes"), [("cityscapes", 8), ("voc", 8), ("modanet", 8), ("sample", 1), ("mini", 1)]
)
def test_schedules_are_for_the_batches_of_so_many_processes(
    name: str, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_batches(load_config(f"nds_{name}.py"), processes)
    assert not caplog.messages
    warn_of_batches(load_config(f"nds_{name}.py"), 2 * processes)
    assert len(caplog.messages) == 2


def test_a_detector_without_roi_head_is_refused_with_what_it_can_do(config: Path, tmp_path: Path) -> None:
    options = {"model": {"_delete_": True, "type": "RetinaNet"}}
    with pytest.raises(NDSError, match="model RetinaNet has no roi_head"):
        MainJob(load_config(str(config), options, str(tmp_path)))


def test_options_that_a_runner_looks_for_in_its_config_are_known(config: Path) -> None:
    assert load_config(str(config), {"sync_bn": "torch"}).cfg.sync_bn == "torch"


def test_options_are_read_as_mmdetections_own_tools_read_them() -> None:
    pairs = ["a=[one,two]", "b=(one,2)", "c=one,", "d=1,2.5", "e=True", "f=None", "g=1e-3", "h=[(a,1)]"]
    assert train_mm.options_of([*pairs, "i=my photos/x.json", "j={'k': [1]}", "l="]) == {
        "a": ["one", "two"], "b": ("one", 2), "c": ["one"], "d": [1, 2.5], "e": True, "f": None, "g": 1e-3, "h": [("a", 1)],
        "i": "my photos/x.json", "j": {"k": [1]}, "l": "",
    }  # fmt: skip
    quoted = ["a=[{'type':'X','a':1}]", """b=["my set",'b']""", "c=['one',two]", "d='my set'", "e='a','b'"]
    assert train_mm.options_of(quoted) == {
        "a": [{"type": "X", "a": 1}], "b": ["my set", "b"], "c": ["one", "two"], "d": "my set", "e": ["a", "b"],
    }  # fmt: skip
    for wrong, message in (
        ("a", "takes KEY=VALUE, got 'a'"),
        ("a=[1,2", "brackets or quotes do not match"),
        ("a={b", "brackets"),
        ("a=[{'type':X}]", "quotes do not match"),
        ("a={[]: 1}", "brackets"),
    ):
        with pytest.raises(NDSError, match=message):
            train_mm.options_of([wrong])


def test_one_text_is_a_list_of_one(config: Path) -> None:
    assert load_config(str(config), {"nds.target.datasets": "photos"}).nds.TARGET.DATASETS == ("photos",)


def test_what_decides_the_weights_is_in_the_key(config: Path) -> None:
    def key(options: dict[str, Any]) -> str:
        cfg = load_config(str(config), options).cfg
        cfg.train_dataloader.dataset.type = "NDSNamedDataset"
        cfg.train_cfg.max_unreadable = 0
        return training_key(cfg, [])

    tested = {"model.test_cfg.rpn.max_per_img": 3}
    assert key(tested) == key({})
    assert key({"sync_bn": "torch"}) != key({})
    assert key({"auto_scale_lr": {"enable": False, "base_batch_size": 16}}) == key({})
    assert key({"auto_scale_lr": {"enable": True, "base_batch_size": 16}}) != key({})
    own = load_config(str(config)).cfg.model.train_cfg
    without = {"model.train_cfg": {"_delete_": True, "rpn": own.rpn, "rcnn": own.rcnn}}
    assert key({**without, **tested}) != key(without)


def test_joined_label_spaces_need_a_head_that_knows_of_them(tiny_datasets: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "stock.py", tiny_datasets, type="StandardRoIHead")
    with pytest.raises(
        NDSError, match="StandardRoIHead, and the sources label different classes.*NDSRoIHead"
    ):
        MainJob(load_config(str(path), {}, str(tmp_path))).run()


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_of_the_target_that_do_not_fit_their_images_are_refused_at_the_start(
    split: str, tiny_datasets: Path, tmp_path: Path
) -> None:
    def small_masks(document: dict[str, Any]) -> None:
        for image in document["images"]:
            del image["width"], image["height"]
        document["annotations"][0]["segmentation"] = {"size": [36, 48], "counts": [0, 36 * 48]}

    shutil.copytree(tiny_datasets, tmp_path / "data")
    edit_json(tmp_path / f"data/city/{split}.json", small_masks)
    path = write_config(tmp_path / "own.py", tmp_path / "data")
    options = {"nds.target.num_images": 0}
    with pytest.raises(NDSError, match="city/images/.*a mask that is not of the image's size.*got 48 x 36"):
        MainJob(load_config(str(path), options, str(tmp_path / "run"))).run()
    assert not list((tmp_path / "run").rglob("*.parquet")), "nothing was made"


def test_a_config_without_the_part_nds_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("default_scope = 'mmdet'\n")
    with pytest.raises(NDSError, match="has no part nds"):
        load_config(str(tmp_path / "own.py"))


def test_a_config_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("model = nothing\n")
    with pytest.raises(NDSError, match="own.py: NameError: name 'nothing' is not defined"):
        load_config(str(tmp_path / "own.py"))


def test_a_mistyped_name_lists_the_configs() -> None:
    with pytest.raises(NDSError, match="unknown config 'nds_cityscape.py'.*Did you mean 'nds_cityscapes'"):
        load_config("nds_cityscape.py")
    assert CONFIGS.folder.is_dir()


def test_the_config_of_the_documentation_is_accepted(tiny_datasets: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/mmdetection.md").read_text(encoding="utf-8")
    (text,) = [t for t in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "files = dict(" in t]
    for name, domain, split in (
        ("photos/", "street", "train"),
        ("mine/", "city", "train"),
        ("mine/", "city", "val"),
    ):
        text = text.replace(f"{name}{split}.json", f"{tiny_datasets}/{domain}/{split}.json")
        text = text.replace(f"{name}images", f"{tiny_datasets}/{domain}/images")
    (tmp_path / "own.py").write_text(text)
    job = load_config(str(tmp_path / "own.py"), {}, str(tmp_path / "run"))
    MainJob(job)
    assert merged(job.cfg, job.nds.PRETRAIN).train_cfg.max_iters == 9000


def test_files_of_ones_own_that_are_missing_are_told_first(config: Path, tmp_path: Path) -> None:
    files = {"ann_file": "trian.json", "images": "nowhere"}
    with pytest.raises(NDSError, match="nds.datasets.tiny_city_val: annotation file not found: trian.json"):
        MainJob(load_config(str(config), {"nds.datasets.tiny_city_val": files}, str(tmp_path)))
