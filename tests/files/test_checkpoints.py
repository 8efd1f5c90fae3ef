"""Checkpoint files of torch: the one to resume at, and names of weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from nds_plugin.files.checkpoints import first_whole, why_broken, without_module_prefix, write_checkpoint


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


def test_no_flipped_bit_stops_the_search_for_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(path, {"a": torch.zeros(8)})
    whole = path.read_bytes()
    names = [where for where in range(len(whole)) if whole.startswith(b"PK\x01\x02", where)]
    broken = []
    for where in {*range(0, len(whole), 97), *(start + field for start in names for field in range(4, 60))}:
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 0xFF]) + whole[where + 1 :])
        broken.append(why_broken(path))
    assert all(why is None or str(path) in why for why in broken)
    assert sum(why is not None for why in broken) > len(names)


def test_the_prefix_of_data_parallel_is_dropped_where_all_names_have_it() -> None:
    assert without_module_prefix({"module.a": 1, "module.module.b": 2}) == {"a": 1, "module.b": 2}
    assert without_module_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert without_module_prefix({}) == {}
