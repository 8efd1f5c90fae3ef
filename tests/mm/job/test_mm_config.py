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

from nds_plugin.errors import NDSError
from nds_plugin.mm.config.loading import CONFIGS, load_config, merged
from nds_plugin.mm.job.main_job import MainJob


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


def test_a_detector_without_roi_head_is_refused_with_what_it_can_do(config: Path, tmp_path: Path) -> None:
    options = {"model": {"_delete_": True, "type": "RetinaNet"}}
    with pytest.raises(NDSError, match="model RetinaNet has no roi_head"):
        MainJob(load_config(str(config), options, str(tmp_path)))


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
