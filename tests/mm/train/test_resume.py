"""Killed in the middle of a checkpoint: resumed on any number of processes, the draw and the weights go on."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from loader_batches import drawn_selection
from mmdet_process import exit_codes, started
from tiny_mmdet import config, equal_weights, joined, mask_rcnn, recorded, trained, weights

ITERATIONS, TOTAL = 4, 2


def seen(record: Path, world_size: int) -> dict[int, list[str]]:
    """The files of every iteration in the order of the stream, over all ranks."""
    ranks = [json.loads(Path(f"{record}{rank}.json").read_text()) for rank in range(world_size)]
    return {int(i): [file for share in zip(*(rank[i] for rank in ranks)) for file in share] for i in ranks[0]}


@pytest.mark.slow
def test_a_run_killed_in_a_checkpoint_goes_on_as_if_it_had_not_been(
    tiny_datasets: Path, tmp_path: Path
) -> None:
    selection = drawn_selection(tmp_path)
    dataset = joined(tiny_datasets, selection)
    whole = trained(config(tmp_path / "whole", dataset, selection, model=mask_rcnn(7), iterations=ITERATIONS))

    def training(name: str, work_dir: Path, **more: Any) -> dict[str, Any]:
        given = {
            "root": tiny_datasets,
            "selection": selection,
            "work_dir": work_dir,
            "record": tmp_path / name,
        }
        return {
            **{k: str(v) for k, v in given.items()},
            "iterations": ITERATIONS,
            "batch_size": TOTAL,
            **more,
        }

    die_in, one, two = f"iter_{ITERATIONS}.pth", tmp_path / "one", tmp_path / "two"
    killed = started(training("killed", one, resume=False, die_in=die_in))
    assert exit_codes(killed) == [-signal.SIGKILL]
    assert {path.name for path in one.glob("*.pth")} == {"iter_2.pth"}
    assert [path for path in one.glob(".*.tmp") if die_in in path.name]

    shutil.copytree(one, two)
    assert exit_codes(started(training("single", one, resume=True))) == [0]
    assert exit_codes(started(training("pair", two, resume=True, batch_size=TOTAL // 2), 2)) == [0, 0]
    expected = {i: files for i, files in recorded(whole).items() if i >= 2}
    assert seen(tmp_path / "single", 1) == expected
    assert seen(tmp_path / "pair", 2) == expected
    assert equal_weights(weights(whole), torch.load(tmp_path / "single0.pth", weights_only=True))
    shares = [torch.load(tmp_path / f"pair{rank}.pth", weights_only=True) for rank in (0, 1)]
    trainable = [name for name in shares[0] if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(shares[0][name], shares[1][name]) for name in trainable)
