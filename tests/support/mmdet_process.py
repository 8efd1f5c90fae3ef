"""Processes that train by MMDetection, forked from one that has imported it; they may die in the middle of a checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tiny_mmdet import DISTRIBUTED, config, joined, mask_rcnn, recorded, trained, weights


def started(given: dict[str, Any], world_size: int = 1) -> list[BaseProcess]:
    """The processes of a training, on their way.

    Args:
        given: ``root``, ``selection``, ``work_dir``, ``iterations``, ``batch_size``, ``resume``, ``record`` (where
            to put what was seen and the weights, by rank) and ``die_in`` (the checkpoint to die in, if any).
        world_size: how many processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [context.Process(target=run, args=(given, rank, world_size, port)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    return ranks


def exit_codes(ranks: list[BaseProcess]) -> list[int | None]:
    """How the processes ended; those that do not end are killed."""
    for rank in ranks:
        rank.join(timeout=240)
        if rank.is_alive():
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks]


def run(given: dict[str, Any], rank: int, world_size: int, port: int) -> None:
    """Train in this process, which is one of several."""
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
    if given.get("die_in"):
        _die_in(given["die_in"])
    cfg = config(
        Path(given["work_dir"]),
        joined(Path(given["root"]), given["selection"]),
        given["selection"],
        model=mask_rcnn(7),
        iterations=given["iterations"],
        batch_size=given["batch_size"],
        resume=given["resume"],
        **(DISTRIBUTED if world_size > 1 else {}),
    )
    runner = trained(cfg)
    Path(f"{given['record']}{rank}.json").write_text(json.dumps(recorded(runner)))
    torch.save(weights(runner), f"{given['record']}{rank}.pth")
    if world_size > 1:
        torch.distributed.destroy_process_group()


def _die_in(name: str) -> None:
    """Kill this process when half of that file has been written."""
    sync = os.fsync

    def until(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = until
