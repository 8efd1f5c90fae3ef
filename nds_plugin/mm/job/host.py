"""MMEngine as the host of the pipeline: datasets by name, and the processes of its launcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, init_dist, is_distributed

from nds_plugin.engine.processes import TIMEOUT
from nds_plugin.errors import NDSError
from nds_plugin.pipeline.files_host import FilesHost

T = TypeVar("T")


class MMHost(FilesHost):
    """A :class:`~nds_plugin.pipeline.host.Host` on the names of :class:`FilesHost` and MMEngine's processes.

    Args:
        datasets: COCO files of one's own, ``{name: {"ann_file": ..., "images": ...}}``.
    """

    def __init__(self, datasets: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        super().__init__()
        for name, files in (datasets or {}).items():
            named = isinstance(files, Mapping) and set(files) == {"ann_file", "images"}
            if not named or not all(isinstance(path, str) for path in files.values()):
                raise NDSError(
                    f"nds.datasets.{name}: expected dict(ann_file='x.json', images='folder'), got {files!r}."
                )
            self.add_coco(files["ann_file"], files["images"], name)

    @property
    def rank(self) -> int:  # type: ignore[override]
        return int(get_rank())

    @property
    def world_size(self) -> int:  # type: ignore[override]
        return int(get_world_size())

    def barrier(self) -> None:
        barrier()

    def all_gather(self, value: T) -> list[T]:
        return list(all_gather_object(value))


def join_processes(launcher: str) -> None:
    """Let this process be one of a job, as the launcher's environment says.

    Raises:
        NDSError: the process was not started by that launcher.
    """
    if launcher == "none" or is_distributed():
        return
    on_gpus = torch.cuda.is_available()
    try:
        if launcher == "pytorch" and not on_gpus:  # MMEngine's own would ask for a GPU
            torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
        else:  # MMEngine takes seconds
            backend = "nccl" if on_gpus else "gloo"
            init_dist(launcher, backend=backend, timeout=int(TIMEOUT.total_seconds()))
    except (KeyError, ValueError, RuntimeError) as error:
        raise NDSError(
            f"--launcher {launcher}: the processes do not find each other ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): start them by torchrun, srun or mpirun."
        ) from None
