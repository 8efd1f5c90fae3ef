"""Two commands in one output folder take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planted_images import coloured

from nds_plugin.commands import experts, partition
from nds_plugin.experts import train_experts
from nds_plugin.files.locking import try_lock
from nds_plugin.source.partition import Partition


class _StoppedError(Exception):
    pass


@pytest.fixture
def turn(tmp_path: Path) -> Any:
    """In the place of the work: stops where no other could do the same."""

    def stop(*_: object, **__: object) -> None:
        assert try_lock(tmp_path / "out/.lock") is None
        raise _StoppedError

    return stop


def test_a_source_is_partitioned_by_one_command_at_a_time(
    tmp_path: Path, turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured(tmp_path / "images", 4)
    monkeypatch.setattr(partition, "make_partition", turn)
    options = ["--num-clusters", "2", "--shared-steps", "1", "--output", f"{tmp_path}/out"]
    with pytest.raises(_StoppedError):
        partition.main(["--folder", f"{tmp_path}/images", *options])


def test_experts_are_trained_by_one_command_at_a_time(
    tmp_path: Path, turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = coloured(tmp_path / "images", 4)
    index.save(tmp_path / "index.parquet", "")
    Partition(index.column("label"), index.table, index.hash, method="superclass", seed=0).save(
        tmp_path / "partition.parquet", ""
    )
    monkeypatch.setattr(train_experts, "train_experts", turn)
    source = ["--index", f"{tmp_path}/index.parquet", "--partition", f"{tmp_path}/partition.parquet"]
    with pytest.raises(_StoppedError):
        experts.main([*source, "--kind", "network", "--output", f"{tmp_path}/out"])
