"""Checkpoints of two processes that train together."""

from __future__ import annotations

import json
from pathlib import Path

import detectron2.utils.comm as comm
import pytest
import torch
from detectron2.engine import launch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.errors import NDSError
from nds_plugin.job.leaving import leave_processes


def worker(folder: str) -> None:
    """Save twice, break the newest, resume on both ranks; then break all and try again."""
    torch.set_num_threads(1)
    directory = Path(folder, "run")
    model = DistributedDataParallel(nn.Linear(4, 4))
    for value in (1, 2):
        with torch.no_grad():
            model.module.weight.fill_(value)
        AtomicCheckpointer(model, str(directory)).save(f"model_{value:07d}", iteration=value)
    comm.synchronize()
    newest, older = directory / "model_0000002.pth", directory / "model_0000001.pth"
    if comm.is_main_process():
        newest.write_bytes(newest.read_bytes()[:-50])
    comm.synchronize()
    rest = AtomicCheckpointer(model, str(directory)).resume_or_load("", resume=True)
    resumed = (rest["iteration"], float(model.module.weight.mean().detach()))
    comm.synchronize()
    if comm.is_main_process():
        older.write_bytes(b"")
    comm.synchronize()
    failure = ""
    try:
        AtomicCheckpointer(model, str(directory)).resume_or_load("", resume=True)
    except NDSError as error:
        failure = str(error)
    report = {"resumed": resumed, "failure": failure, "writer": comm.is_main_process()}
    Path(folder, f"rank{comm.get_rank()}.json").write_text(json.dumps(report))
    leave_processes()


@pytest.mark.slow
def test_all_ranks_resume_at_the_checkpoint_that_rank_0_chose_or_stop_together(tmp_path):
    if torch.cuda.is_available() and torch.cuda.device_count() < 2:
        pytest.skip("detectron2's launch wants one GPU for each of two processes where there is one")
    launch(worker, 2, dist_url="auto", args=(str(tmp_path),))
    reports = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for report in reports:
        assert report["resumed"] == [1, 1.0]
        assert "no whole checkpoint to resume at" in report["failure"]
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"model_0000001.pth", "model_0000002.pth", "last_checkpoint"}
