"""What the main job in MMDetection refuses once it has read the target, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMDetection is not installed (make install)")

from mm_jobs import write_config

from nds_plugin.errors import NDSError
from nds_plugin.mm.config.loading import load_config
from nds_plugin.mm.job.main_job import MainJob


@pytest.fixture(scope="module")
def config(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("mm") / "tiny.py", tiny_datasets)


def job(config: Path, run: Path, options: dict[str, object]) -> MainJob:
    return MainJob(load_config(str(config), options, str(run)))


def test_more_images_than_the_target_has_are_refused_at_the_start(config: Path, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="expected at most the 24 images of 'tiny_city_train', got 1000"):
        job(config, tmp_path, {"nds.target.num_images": 1000}).run()
    assert not list(tmp_path.rglob("*.parquet")), "nothing was made"


def test_a_list_that_names_a_dataset_twice_is_refused(config: Path, tmp_path: Path) -> None:
    for key in ("train", "test", "datasets"):
        with pytest.raises(NDSError, match=f"nds.target.{key} names tiny_city_val more than once"):
            job(config, tmp_path, {f"nds.target.{key}": ["tiny_city_val", "tiny_city_val"]})


def test_select_only_needs_a_selector(config: Path, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="--select-only: the selector is none, which selects nothing"):
        job(config, tmp_path, {"nds.selector": "none"}).select_only()


def test_missing_images_that_are_to_be_scored_are_told_at_the_start(
    config: Path, tiny_datasets: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    files = {"ann_file": str(tiny_datasets / "city/val.json"), "images": str(tmp_path / "empty")}
    options = {"nds.datasets.scored": files, "nds.target.datasets": ["scored"]}
    with pytest.raises(NDSError, match="dataset 'scored': 6 of 6 image files are missing"):
        job(config, tmp_path / "run", options).run()


def test_a_test_pipeline_that_loads_annotations_is_taken_without(config: Path, tmp_path: Path) -> None:
    def steps(*types: str) -> MainJob:
        pipeline = [{"type": name} for name in types]
        return job(config, tmp_path, {"test_dataloader.dataset.pipeline": pipeline})

    stock = steps("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
    short = steps("LoadImageFromFile", "PackDetInputs")
    kept = stock._test_loader("tiny_city_val")["dataset"]["pipeline"]
    assert [step["type"] for step in kept] == ["LoadImageFromFile", "PackDetInputs"]
    assert stock._test_key(stock.job.cfg) == short._test_key(short.job.cfg)
