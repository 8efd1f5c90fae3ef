"""Laws of pretraining that is shared between the jobs of one work folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nds_plugin.engine.processes import OneProcess
from nds_plugin.files.artifacts import is_valid, read_json, write_json
from nds_plugin.files.locking import try_lock
from nds_plugin.job.kept_pretraining import KeptPretraining
from nds_plugin.job.training_folder import FINAL, FINISHED, KIND, STARTED, set_aside


def _finished(folder: Path, key: str, content: bytes = b"weights", resumed_from: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / FINAL).write_bytes(content)
    write_json(folder / FINISHED, KIND, key, {"iterations": 8, "resumed_from": resumed_from})
    return folder


def test_the_same_pretraining_is_taken_and_costs_no_disk(tmp_path: Path) -> None:
    first, second = _finished(tmp_path / "first/pretrain", "k" * 64), tmp_path / "second/pretrain"
    KeptPretraining(tmp_path / "nds", "k" * 64).keep(first)
    KeptPretraining(tmp_path / "nds", "k" * 64).take(second)
    assert is_valid(second / FINISHED, KIND, "k" * 64)
    assert (second / FINAL).read_bytes() == b"weights"
    assert os.path.samefile(first / FINAL, second / FINAL)
    assert read_json(second / FINISHED, KIND)["taken_from"].startswith(str(tmp_path / "nds"))


def test_another_pretraining_is_not_taken(tmp_path: Path) -> None:
    KeptPretraining(tmp_path / "nds", "k" * 64).keep(_finished(tmp_path / "first", "k" * 64))
    KeptPretraining(tmp_path / "nds", "k" * 10 + "x" * 54).take(tmp_path / "second")  # of the same short name
    assert not (tmp_path / "second").exists()


def test_what_another_config_left_is_set_aside_first(tmp_path: Path) -> None:
    KeptPretraining(tmp_path / "nds", "k" * 64).keep(_finished(tmp_path / "first", "k" * 64))
    second = _finished(tmp_path / "second", "other", b"of another config")
    write_json(second / STARTED, KIND, "other", {})
    KeptPretraining(tmp_path / "nds", "k" * 64).take(second)
    assert (second / FINAL).read_bytes() == b"weights"
    assert (tmp_path / "second.old1" / FINAL).read_bytes() == b"of another config"


def test_a_run_that_went_on_from_another_config_is_not_kept(tmp_path: Path) -> None:
    kept = KeptPretraining(tmp_path / "nds", "k" * 64)
    kept.keep(_finished(tmp_path / "first", "k" * 64, resumed_from="other"))
    kept.take(tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_what_was_taken_is_set_aside_before_another_config_trains(tmp_path: Path) -> None:
    """Killed between its weights and its note, the later run would pass for the one that was taken."""
    kept, second = KeptPretraining(tmp_path / "nds", "k" * 64), tmp_path / "second"
    kept.keep(_finished(tmp_path / "first", "k" * 64))
    kept.take(second)
    set_aside(second)
    assert not second.exists()
    assert is_valid(tmp_path / "second.old1" / FINISHED, KIND, "k" * 64)


def _refuse(*_: object) -> None:
    raise OSError(95, "Operation not supported")


def test_without_links_every_job_trains_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    kept = KeptPretraining(tmp_path / "nds", "k" * 64)
    kept.keep(_finished(tmp_path / "first", "k" * 64))
    kept.take(tmp_path / "second")
    assert not kept.folder.exists()
    assert not (tmp_path / "second").exists()


def test_a_run_of_its_own_stays_where_it_can_go_on_if_nothing_can_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, second = KeptPretraining(tmp_path / "nds", "k" * 64), tmp_path / "second"
    kept.keep(_finished(tmp_path / "first", "k" * 64))
    second.mkdir()
    (second / "last_checkpoint").write_text("model_0000003.pth")
    monkeypatch.setattr(os, "link", _refuse)
    kept.take(second)
    assert (second / "last_checkpoint").read_text() == "model_0000003.pth"


def test_the_lock_stays_where_it_is_when_what_a_killed_job_left_is_set_aside(tmp_path: Path) -> None:
    kept = KeptPretraining(tmp_path / "nds", "k" * 64)
    kept.folder.mkdir(parents=True)
    (kept.folder / FINAL).write_bytes(b"linked by a job that was killed before it wrote the note")
    with kept.alone(tmp_path / "run", OneProcess()):
        locks = list((tmp_path / "nds").rglob("*.lock"))
        kept.keep(_finished(tmp_path / "first", "k" * 64))
        assert (kept.folder / FINAL).read_bytes() == b"weights"
        assert [try_lock(lock) for lock in locks] == [None]
        assert list((tmp_path / "nds").rglob("*.lock")) == locks
