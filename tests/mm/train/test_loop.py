"""Laws of the loop and its hooks, on a model of one number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_batches import drawn_selection
from mmengine.runner import IterBasedTrainLoop, Runner
from PIL import Image
from tiny_mmdet import coco, config, equal_weights, joined, recorded, trained, weights

from nds_plugin.errors import NDSError
from nds_plugin.mm.train.rescore_hook import NDSRescoreHook
from nds_plugin.selection.selection import Selection

pytestmark = pytest.mark.slow


@pytest.fixture
def stream(tiny_datasets: Path, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The images of a selection, and its path."""
    selection = drawn_selection(tmp_path)
    return joined(tiny_datasets, selection), selection


@pytest.fixture
def whole(stream: Any, tmp_path: Path) -> Runner:
    """A training of six iterations, with checkpoints at 2, 4 and 6."""
    return trained(config(tmp_path / "whole", *stream, iterations=6))


def test_workers_change_neither_the_draw_nor_the_weights(whole: Runner, stream: Any, tmp_path: Path) -> None:
    other = trained(config(tmp_path / "workers", *stream, iterations=6, workers=2))
    assert recorded(other) == recorded(whole)
    assert equal_weights(weights(other), weights(whole))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_repeats_the_unbroken_one(
    whole: Runner, stream: Any, tmp_path: Path, workers: int
) -> None:
    checkpoint = str(tmp_path / "whole/iter_4.pth")
    resumed = trained(
        config(tmp_path / "on", *stream, iterations=6, workers=workers, resume=True, load_from=checkpoint)
    )
    assert recorded(resumed) == {i: files for i, files in recorded(whole).items() if i >= 4}
    assert equal_weights(weights(resumed), weights(whole))
    history = resumed.message_hub.get_scalar("train/loss").data[0]
    assert np.array_equal(history, whole.message_hub.get_scalar("train/loss").data[0])


def test_a_resume_loads_no_batch_that_was_trained_on(whole: Runner, stream: Any, tmp_path: Path) -> None:
    resumed = Runner.from_cfg(config(tmp_path / "whole", *stream, iterations=8, resume=True))
    loads: list[int] = []
    loop = resumed.train_loop
    dataset = loop.dataloader.dataset
    load = dataset._images.load
    dataset._images.load = lambda index: loads.append(index) or load(index)
    resumed.train()
    assert loop.iter == 8
    assert len(loads) == 2 * 2


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_stock_loop_goes_on_with_the_draw_as_well(
    whole: Runner, stream: Any, tmp_path: Path, interrupted: bool
) -> None:
    """By MMEngine's own way of skipping, or by its replay."""
    resume = {"resume": True, "load_from": str(tmp_path / "whole/iter_4.pth")} if interrupted else {}
    stock = trained(config(tmp_path / "stock", *stream, iterations=6, loop="IterBasedTrainLoop", **resume))
    assert type(stock.train_loop) is IterBasedTrainLoop
    assert recorded(stock) == {
        i: files for i, files in recorded(whole).items() if i >= (4 if interrupted else 0)
    }


def test_a_stock_sampler_trains_on_a_drawn_subset(tiny_datasets: Path, tmp_path: Path) -> None:
    selection = drawn_selection(tmp_path, "subset")
    cfg = config(
        tmp_path / "run", joined(tiny_datasets, selection), None, iterations=10, loop="IterBasedTrainLoop"
    )
    cfg.train_dataloader.sampler = {"type": "DefaultSampler", "shuffle": True}
    cfg.train_dataloader.batch_sampler = {"type": "AspectRatioBatchSampler"}
    cfg.custom_hooks = [{"type": "Recorder"}]
    files = [file for batch in recorded(trained(cfg)).values() for file in batch]
    assert len(files) == len(set(files)) == 20


def test_the_shares_of_the_clusters_are_logged(whole: Runner, stream: Any) -> None:
    lines = Path(whole._log_dir, "vis_data/scalars.json").read_text().splitlines()
    logged = [entry for entry in map(json.loads, lines) if "nds/drawn/cluster_0" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    drawn = [logged[-1][f"nds/drawn/cluster_{k}"] for k in (0, 1)]
    files = [file for batch in recorded(whole).values() for file in batch]
    assert drawn == pytest.approx(
        [sum(f.startswith(d) for f in files) / len(files) for d in ("room", "street")]
    )
    expected = [logged[-1][f"nds/expected/cluster_{k}"] for k in (0, 1)]
    assert expected == pytest.approx(Selection.load(stream[1]).weights.tolist())
    assert logged[-1]["nds/unreadable_images"] == 0


def test_checkpoints_load_without_unpickling_and_old_ones_go_after_the_new_one(
    stream: Any, tmp_path: Path
) -> None:
    cfg = config(tmp_path / "run", *stream, iterations=6)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    trained(cfg)
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["iter_4.pth", "iter_6.pth"]
    state = torch.load(tmp_path / "run/iter_6.pth", weights_only=True)
    assert state["nds_draw"]["identity"]["batch_size"] == 2
    assert state["meta"]["dataset_meta"]["nds_sources"] == ["tiny_street_train", "tiny_room_train"]


def test_a_broken_newest_checkpoint_is_passed_over_with_a_warning(
    whole: Runner, stream: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "whole"
    newest = folder / "iter_6.pth"
    newest.write_bytes(newest.read_bytes()[:-50])
    resumed = trained(config(folder, *stream, iterations=6, resume=True))
    assert sorted(recorded(resumed)) == [4, 5]
    assert "iter_4.pth, because the newest is not usable" in caplog.text
    for path in folder.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(NDSError, match="no whole checkpoint to resume at"):
        trained(config(folder, *stream, resume=True))
    with pytest.raises(NDSError, match="cannot resume at it: checkpoint not found"):
        trained(config(folder, *stream, resume=True, load_from=str(tmp_path / "none.pth")))


def test_a_file_that_would_run_code_is_not_resumed_at(stream: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {}, "meta": Trap(tmp_path / "sprung")}, tmp_path / "run/iter_2.pth")
    (tmp_path / "run/last_checkpoint").write_text(str(tmp_path / "run/iter_2.pth"))
    with pytest.raises(NDSError, match="no whole checkpoint to resume at .*weights only"):
        trained(config(tmp_path / "run", *stream, resume=True))
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_resume_by_another_draw_is_refused(whole: Runner, stream: Any, tmp_path: Path) -> None:
    for change, match in (
        ({"batch_size": 4}, "batch_size was 2 and is 4"),
        ({"randomness": {"seed": 4}}, "seed was 3 and is 4"),
    ):
        shutil.copytree(tmp_path / "whole", tmp_path / "again", dirs_exist_ok=True)
        with pytest.raises(NDSError, match=match):
            trained(config(tmp_path / "again", *stream, iterations=8, resume=True, **change))


def test_a_resume_without_a_seed_goes_on_by_that_of_the_checkpoint(stream: Any, tmp_path: Path) -> None:
    for randomness in ({"seed": None}, {"seed": None, "diff_rank_seed": True}):
        folder = tmp_path / str(len(randomness))
        first = trained(config(folder, *stream, iterations=4, randomness=randomness))
        second = trained(config(folder, *stream, iterations=8, randomness=randomness, resume=True))
        assert second.train_loop.sampler.seed == first.train_loop.sampler.seed == first.seed
        assert min(recorded(second)) == 4


def test_new_scores_change_the_draw_of_a_resumed_run_as_of_the_unbroken_one(
    stream: Any, tmp_path: Path
) -> None:
    def towards_streets(iteration: int) -> np.ndarray:
        calls.append(iteration)
        return np.array([0.0, 1.0])

    calls: list[int] = []
    hooks = [{"type": "NDSDrawHook", "interval": 1}, {"type": "Recorder"}]
    hooks.append({"type": NDSRescoreHook, "iterations": [2], "score": towards_streets})
    more = {"iterations": 20, "custom_hooks": hooks, "batch_size": 4}
    runs = [trained(config(tmp_path / "one", *stream, **more))]
    at = {"resume": True, "load_from": str(tmp_path / "one/iter_4.pth")}
    runs.append(trained(config(tmp_path / "two", *stream, workers=2, **more, **at)))
    assert calls == [2]
    unbroken, resumed = (recorded(run) for run in runs)
    later = [file for i in range(2, 20) for file in unbroken[i]]
    assert {file.split("/")[0] for file in later} == {"street"}
    assert resumed == {i: files for i, files in unbroken.items() if i >= 4}
    assert equal_weights(*(weights(run) for run in runs))


def test_what_cannot_be_rescored_is_refused(tiny_datasets: Path, tmp_path: Path) -> None:
    selection = drawn_selection(tmp_path, "subset")
    hook = {"type": NDSRescoreHook, "iterations": [2], "score": lambda i: np.ones(2)}
    with pytest.raises(NDSError, match="only a selection of mode stream"):
        trained(config(tmp_path / "run", joined(tiny_datasets, selection), selection, custom_hooks=[hook]))
    with pytest.raises(NDSError, match="needs selection=PATH, experts=FOLDER and target=FOLDER"):
        NDSRescoreHook(iterations=[3])
    with pytest.raises(NDSError, match="expected iterations of 1 or more"):
        NDSRescoreHook(iterations=[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_from_their_own_cluster_and_counted(
    tiny_datasets: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(tiny_datasets, tmp_path / "data")
    broken = [tmp_path / f"data/street/images/train_{n:06d}.jpg" for n in (1, 2, 3)]
    assert all(path.is_file() for path in broken)
    for path, content in zip(broken, (broken[0].read_bytes()[:300], b"", b"no image")):
        path.write_bytes(content)
    selection = drawn_selection(tmp_path)
    dataset = joined(tmp_path / "data", selection)
    cfg = config(tmp_path / "run", dataset, selection, iterations=40, workers=workers)
    cfg.train_cfg.max_unreadable = 0.1
    runner = trained(cfg)
    sampler = runner.train_loop.sampler
    places = sampler.stream.draw(0, 80)
    there = [file for i in range(40) for file in recorded(runner)[i]]
    planned = [sampler.dataset.get_data_info(int(sampler.drawable.order[p]))["img_path"] for p in places]
    replaced = [(new, old) for new, old in zip(there, planned) if not old.endswith(new)]
    assert replaced
    assert {Path(old) for _, old in replaced} <= set(broken)
    assert all(new.startswith("street/") for new, _ in replaced)
    assert runner.train_dataloader.dataset.unreadable == len({old for _, old in replaced})
    cfg = config(tmp_path / "run2", dataset, selection, iterations=40, workers=workers)
    with pytest.raises(NDSError, match="images cannot be read, more than train_cfg.max_unreadable allows"):
        trained(cfg)


def test_a_mistake_in_a_transform_is_not_taken_for_a_broken_image(stream: Any, tmp_path: Path) -> None:
    dataset, selection = stream
    for part in dataset["dataset"]:
        part["pipeline"] = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": "wide"}]
    with pytest.raises(Exception, match="dsize") as error:
        trained(config(tmp_path / "run", dataset, selection))
    assert not isinstance(error.value, NDSError)


def test_a_config_that_cannot_be_trained_is_refused_in_one_line(stream: Any, tmp_path: Path) -> None:
    def changed(**changes: Any) -> Any:
        cfg = config(tmp_path / "run", *stream)
        for name, value in changes.items():
            node, _, leaf = name.rpartition("__")
            (cfg[node] if node else cfg)[leaf] = value
        return cfg

    epochs = {"type": "EpochBasedTrainLoop", "max_epochs": 1}
    parts = [{"type": "Numbers", "n": 4}, {"type": "Numbers", "n": 4, "classes": ("two",)}]
    other = {"type": "ConcatDataset", "datasets": parts, "ignore_keys": ["classes"]}
    for cfg, match in (
        (changed(train_dataloader__sampler={"type": "NDSInfinitSampler"}), "unknown train_dataloader.sampler .*Did you mean 'NDSInfiniteSampler'"),
        (changed(train_dataloader__sampler={"type": "DefaultSampler"}), r"needs sampler=dict\(type='NDSInfiniteSampler'"),
        (changed(train_dataloader__batch_sampler={"type": "AspectRatioBatchSampler"}), "set batch_sampler=None"),
        (changed(param_scheduler=[{"type": "LinearLR", "start_factor": 0.1, "end": 3}]), "LinearLR counts in epochs"),
        (changed(param_scheduler=[{"type": "LinearLR", "convert_to_iter_based": True}]), "LinearLR has convert_to_iter_based"),
        (changed(train_dataloader__dataset=other), "different classes, one ... and two ..."),
        (changed(train_cfg=epochs), "an epoch of EpochBasedTrainLoop would never end"),
        (changed(custom_hooks=[{"type": "NDSDrawHook", "interval": 0}]), "expected interval of 1 or more"),
        (changed(custom_hooks=[{"type": "NDSDrawHook", "selection": _other(tmp_path)}]), "name the same file"),
        (changed(default_hooks__checkpoint={"type": "NDSCheckpointHook", "backend_args": {"backend": "petrel"}}), "take backend_args away"),
    ):  # fmt: skip
        with pytest.raises(NDSError, match=match) as error:
            trained(cfg)
        assert "\n" not in str(error.value)


def _other(folder: Path) -> str:
    (folder / "other").mkdir(exist_ok=True)
    selection = Selection.load(drawn_selection(folder / "other", "subset"))
    selection.save(folder / "other/key.parquet", "another key")
    return str(folder / "other/key.parquet")


def test_augmentation_is_seeded_by_the_position_alone(stream: Any, tmp_path: Path) -> None:
    dataset, selection = stream
    loop = Runner.from_cfg(config(tmp_path / "run", dataset, selection)).build_train_loop(
        {"type": "NDSIterBasedTrainLoop", "max_iters": 2}
    )
    index = next(iter(loop.sampler))
    np.random.seed(3)
    torch.manual_seed(3)
    first, number = loop.dataloader.dataset[index], np.random.random()
    np.random.seed(3)
    assert number == np.random.random()
    assert torch.equal(first["inputs"], loop.dataloader.dataset[index]["inputs"])
    assert Image.open(first["data_samples"].img_path).size == first["data_samples"].ori_shape[::-1]


def test_one_source_needs_no_name(tiny_datasets: Path, tmp_path: Path) -> None:
    selection = drawn_selection(tmp_path, "stream", ("tiny_street_train",))
    dataset = coco(tiny_datasets, "street")
    del dataset["metainfo"]["nds_source"]
    files = recorded(trained(config(tmp_path / "run", dataset, selection)))
    assert all(file.startswith("street/") for batch in files.values() for file in batch)
