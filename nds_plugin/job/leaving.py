"""The end of a job of several processes."""

from __future__ import annotations

import torch.distributed as dist


def leave_processes() -> None:
    """Wait for the other processes of the job, and close what they talk over; nothing where there are no others.

    A process that exits with it open, while others still talk, may be aborted, and the launcher then calls a job
    that has done all of its work failed.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
