"""Processes of self-supervision, forked from one that has imported it: jobs that start together, and ranks of one training."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nds_plugin.engine.processes import OneProcess, Processes
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.processes import TorchProcesses
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run

_PATIENCE = 100.0  # seconds, for a machine that is busy


def together(work: Callable[..., None], *arguments: tuple[Any, ...]) -> list[int | None]:
    """Do the work with each of the arguments, each in a process; how they ended, killed after a while."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssl_processes"])
    with pytest.MonkeyPatch.context() as patch:  # Python before 3.13 does not hand its path to the server
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    workers = [context.Process(target=work, args=given) for given in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(_PATIENCE)
        if worker.is_alive():
            worker.kill()
            worker.join()
    return [worker.exitcode for worker in workers]


# -- jobs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meeting:
    """Where a job that has trained waits for the other one.

    Attributes:
        mine: this job has trained, or waits for another one that works in the folder.
        other: the same of the other job.
    """

    mine: Event
    other: Event

    def look_at(self, line: str) -> None:
        """A line of this job's log; the last one of a training comes before its weights are written."""
        if line.startswith("waiting for another process") and "pretraining-" in line:
            self.mine.set()
        if line.startswith("pretrain: iteration"):
            self.mine.set()
            assert self.other.wait(_PATIENCE), "the other job has neither trained nor waited"


class _Lines(logging.Handler):
    """Gives the lines of the log to a meeting."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__()
        self._meeting = meeting

    def emit(self, record: logging.LogRecord) -> None:
        self._meeting.look_at(record.getMessage())


def meetings() -> tuple[Meeting, Meeting]:
    """Of two jobs."""
    context = multiprocessing.get_context("forkserver")
    first, second = context.Event(), context.Event()
    return Meeting(first, second), Meeting(second, first)


def job(config: str, changes: list[str], meeting: Meeting) -> None:
    """Run a job that shares its pretraining with another one, which runs at the same time."""
    torch.set_num_threads(1)
    logging.getLogger().addHandler(_Lines(meeting))
    logging.getLogger("nds_plugin").setLevel(logging.INFO)
    MainJob(load_config(config, changes)).run()


# -- ranks ------------------------------------------------------------------------------------------


def train(folder: Path, processes: Processes, method: str, iterations: int) -> dict[str, torch.Tensor]:
    """Pretrain on noise in this process, one of those; the state of its learner."""
    config = PretrainConfig(
        method=method,
        size=16,
        batch_size=8,
        bn_groups=2,
        queue=32,
        dim=6,
        iterations=iterations,
        precision="fp32",
    )
    if not (rows := folder / "rows.npy").exists():
        np.save(rows, np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8))
    run = Run(3, processes, torch.device("cpu"))
    training, learner = prepared(folder, NetworkConfig(width=4, stem="half"), config, run)
    share = {"rank": processes.rank, "world_size": processes.world_size, "groups": config.bn_groups}
    images = MappedRows.of_file(rows, np.arange(40))
    stream, keys = ShuffledStream(np.arange(40), 1), learner.views > 1
    batches = Batches(images, stream, 3, 8, 0, iterations, keys=keys, **share)
    training.run(batches, 0)
    return learner.state_dict()


def rank(folder: Path, number: int, world_size: int, method: str, iterations: int) -> None:
    """Train in one of several processes, and keep what came of it in ``rankN.pth``."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=world_size
    )
    torch.save(train(folder, TorchProcesses(), method, iterations), folder / f"rank{number}.pth")
    torch.distributed.destroy_process_group()


def alone(folder: Path, method: str, iterations: int) -> dict[str, torch.Tensor]:
    """The same training in one process."""
    return train(folder, OneProcess(), method, iterations)
