"""Processes at the same time: those that train together, and jobs that would pretrain alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ssl_jobs import write_folders
from ssl_processes import alone, job, meetings, rank, together

from nds_plugin.datasets.class_folder import ClassFolder
from nds_plugin.files.artifacts import read_json
from nds_plugin.job.training_folder import FINAL
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.host import SSLHost
from nds_plugin.ssl.main_job import MainJob


@pytest.mark.parametrize("method", ["moco", "rotnet"])
def test_two_processes_end_with_the_weights_statistics_and_queue_that_one_has(
    tmp_path: Path, method: str
) -> None:
    # In the first iteration, all start from the same statistics; in later ones, each has its own.
    iterations = 3
    expected = alone(tmp_path, method, iterations)
    starts = [(tmp_path, number, 2, method, iterations) for number in range(2)]
    assert together(rank, *starts) == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{number}.pth", weights_only=True) for number in range(2))
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, rtol=1e-3, atol=1e-4), name
    assert int(expected.get("place", 0)) == (
        iterations * 8 if method == "moco" else 0
    )  # of the queue, compared above


def test_of_two_jobs_that_would_pretrain_alike_and_start_together_one_trains(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    common = ["NDS.WORK_DIR", str(tmp_path / "nds"), "PRETRAIN.ITERATIONS", "1", "FINETUNE.ITERATIONS", "1"]
    outputs = [tmp_path / "a", tmp_path / "b"]
    starts = [
        (str(config), ["OUTPUT_DIR", str(output), *common], meeting)
        for output, meeting in zip(outputs, meetings())
    ]
    assert together(job, *starts) == [0, 0]
    taken = [read_json(output / "pretrain/finished.json", "training").get("taken_from") for output in outputs]
    kept = next((tmp_path / "nds").glob("pretraining-*"))
    assert set(taken) == {None, str(kept)}
    assert all((output / "pretrain" / FINAL).samefile(kept / FINAL) for output in outputs)
    assert all((output / "results.json").is_file() for output in outputs)


def test_the_main_process_alone_reads_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["OUTPUT_DIR", str(tmp_path / "run"), "NDS.SELECTOR", "none"]
    job = MainJob(load_config(str(write_folders(tmp_path / "data")), words))
    monkeypatch.setattr(SSLHost, "rank", 1)
    monkeypatch.setattr(ClassFolder, "index", lambda _: pytest.fail("another process reads it, too"))
    assert job.run() == {}
