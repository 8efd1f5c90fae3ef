"""What a job's results say of the time of its trainings, in whatever start they ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from nds_plugin.engine.processes import OneProcess
from nds_plugin.experiments.results import details
from nds_plugin.files.artifacts import read_json, write_json
from nds_plugin.job.results import write_results
from nds_plugin.job.training_folder import FINAL, FINISHED, KIND, LAST, STARTED, train_once, training_times
from nds_plugin.report.sections import timings


class StoppedError(Exception):
    pass


def train(folder: Path, *, fail: bool = False) -> None:
    def work(go_on: bool) -> None:
        folder.mkdir(exist_ok=True)
        (folder / LAST).write_text("iter_2.pth")
        if fail:
            raise StoppedError
        (folder / FINAL).write_bytes(b"weights")

    train_once(OneProcess(), folder, "k" * 64, work, resume=False, config="", iterations=4)


def test_a_training_that_an_earlier_start_finished_has_its_time(tmp_path: Path) -> None:
    train(tmp_path / "pretrain")
    train(tmp_path / "pretrain")  # kept
    seconds, in_parts = training_times([tmp_path / "pretrain", tmp_path / "finetune"])
    assert list(seconds) == ["pretrain"]
    assert in_parts == []
    found = write_results(tmp_path / "results.json", {}, "", 0, {"evaluate": 2.0}, extra={"selection": {}})
    assert found["times"] == {"evaluate": 2.0}, "nothing was pretrained for this job"
    found = write_results(
        tmp_path / "results.json", {}, "", 0, {"evaluate": 2.0}, extra={"selection": {"w": 1}}
    )
    assert found["times"] == {"evaluate": 2.0, **seconds}


def test_of_an_interrupted_training_no_time_passes_for_the_whole(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path / "finetune", fail=True)
    assert (tmp_path / "finetune" / STARTED).is_file()
    train(tmp_path / "finetune")
    document = write_results(tmp_path / "results.json", {}, "", 0, {"finetune": 1.0})
    assert document["trained_in_parts"] == ["finetune"]
    assert details(document)["times"] == {"finetune": None}
    assert "finetune had been interrupted" in timings(document["times"], document["trained_in_parts"])


def test_a_training_of_another_job_is_none_of_its_own(tmp_path: Path) -> None:
    train(tmp_path / "pretrain")
    path = tmp_path / "pretrain" / FINISHED
    kept = {
        name: read_json(path, KIND)[name] for name in ("iterations", "resumed_from", "seconds", "in_parts")
    }
    write_json(path, KIND, "k" * 64, {**kept, "taken_from": "elsewhere"})
    assert training_times([tmp_path / "pretrain"]) == ({}, [])
