"""Processes close their group before they exit."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from nds_plugin.job.leaving import leave_processes


def test_a_process_leaves_its_group_and_one_without_a_group_does_nothing(tmp_path: Path) -> None:
    leave_processes()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    leave_processes()
    assert not dist.is_initialized()
    leave_processes()
