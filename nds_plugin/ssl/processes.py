"""The processes of a job, as torch.distributed knows them."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from nds_plugin.engine.orphans import end_with_parent
from nds_plugin.engine.processes import TIMEOUT
from nds_plugin.errors import NDSError

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join_processes(on_gpus: bool) -> None:
    """Let this process be one of those that torchrun started; nothing where it was not.

    Raises:
        NDSError: they do not find each other, or are more than there are GPUs.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        return
    end_with_parent(signal.SIGTERM)
    if on_gpus:
        _take_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        # gloo as well, for what is gathered between processes: texts and numbers on the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise NDSError(
            f"the processes could not connect to each other ({' '.join(str(error).split())[:200]}): start them with torchrun."
        ) from None
    if dist.get_rank() > 0:  # the first tells and warns for all
        logging.getLogger().setLevel(logging.ERROR)


def _take_gpu(number: int, started: int) -> None:
    """Work on the GPU of this number; each of the processes that were started on this machine has one."""
    here = torch.cuda.device_count()
    if started > here:
        raise NDSError(
            f"torchrun started {started} processes here, but torch sees {here} GPUs: --nproc_per_node {here}, or DEVICE cpu."
        )
    torch.cuda.set_device(number)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, by rank, without gradient; each has as many."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def averaged(tensors: list[torch.Tensor]) -> None:
    """Put the mean over all processes into each tensor."""
    if not is_distributed():
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


class TorchProcesses:
    """:class:`~nds_plugin.pipeline.host.Processes` of torch.distributed."""

    @property
    def rank(self) -> int:
        return int(dist.get_rank()) if is_distributed() else 0

    @property
    def world_size(self) -> int:
        return int(dist.get_world_size()) if is_distributed() else 1

    def barrier(self) -> None:
        """Wait for all, over gloo: as long as it takes, on a processor that others may use."""
        self.all_gather(None)

    def all_gather(self, value: T) -> list[T]:
        if not is_distributed():
            return [value]
        found: list[Any] = [None] * dist.get_world_size()
        try:
            dist.all_gather_object(found, value)
        except RuntimeError:  # of gloo
            raise NDSError(
                f"process {self.rank} has lost the others, which have ended: the line of one of them says why."
            ) from None
        return found
