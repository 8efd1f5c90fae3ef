"""Checkpoint files of torch: the one to resume at, and names of weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from nds_plugin.files.checkpoints import first_whole, without_module_prefix, write_checkpoint


def test_the_first_whole_checkpoint_is_resumed_at_and_the_broken_one_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest, older, oldest = (tmp_path / f"{i}.pth" for i in (3, 2, 1))
    for path in (newest, older, oldest):
        write_checkpoint(path, {"a": torch.zeros(8)})
    assert first_whole([newest, older]) == (newest, [])
    assert not caplog.records
    newest.write_bytes(newest.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        found, broken = first_whole([newest, older, oldest])
    assert found == older
    assert len(broken) == 1
    assert f"Resuming at {older}, because the newest is not usable: {newest}" in caplog.text
    found, broken = first_whole([newest, tmp_path / "gone.pth"])
    assert found is None
    assert [str(path) in why for path, why in zip((newest, tmp_path / "gone.pth"), broken)] == [True, True]
    assert first_whole([]) == (None, [])


def test_the_prefix_of_data_parallel_is_dropped_where_all_names_have_it() -> None:
    assert without_module_prefix({"module.a": 1, "module.module.b": 2}) == {"a": 1, "module.b": 2}
    assert without_module_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert without_module_prefix({}) == {}
