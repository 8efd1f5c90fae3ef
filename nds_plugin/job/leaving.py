"""The end of a job of several processes."""

from __future__ import annotations

import torch.distributed as dist


def leave_processes() -> None:
    """Close what this process and the others of a job talk over, once it has nothing more to say; nothing where it is alone.

    A process that exits with it open may be aborted, and the launcher then calls a job failed that has done all of
    its work.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
