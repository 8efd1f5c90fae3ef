"""Jobs in one folder of results: the second one is refused, whichever host runs it."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from pathlib import Path

import pytest

from nds_plugin.commands import train
from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.job import kept_pretraining, taking_turns
from nds_plugin.job.kept_pretraining import KeptPretraining
from nds_plugin.job.taking_turns import only_job_in


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_turns, "PATIENCE", 0.3)


def test_a_folder_is_free_again_after_a_job_and_after_one_that_failed(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), only_job_in(tmp_path, OneProcess()):
            raise KeyError
    with only_job_in(tmp_path, OneProcess()):
        pass


def test_a_second_job_of_detectron2_is_refused(tiny_datasets: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    tiny = ["DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"]
    words = ["--config", "none_sample.yaml", *tiny, "OUTPUT_DIR", str(tmp_path)]
    with only_job_in(tmp_path, OneProcess()), pytest.raises(NDSError, match="another job runs in the output"):
        train.main(words)
    assert [path.name for path in tmp_path.iterdir()] == [".job.lock"]


def test_where_there_are_no_locks_the_job_runs_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", without_locks)
    with only_job_in(tmp_path, OneProcess()):
        pass
    assert "is on a file system without locks" in caplog.text


def test_jobs_whose_disks_cannot_share_a_pretraining_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, waited = KeptPretraining(tmp_path / "work", "key"), []
    monkeypatch.setattr(kept_pretraining, "held", lambda *_: waited.append(1) or nullcontext())
    with kept.alone(tmp_path / "run", OneProcess()):
        assert waited
    monkeypatch.setattr(kept_pretraining, "disk", lambda folder: hash(folder))
    with kept.alone(tmp_path / "run", OneProcess()):
        assert len(waited) == 1
