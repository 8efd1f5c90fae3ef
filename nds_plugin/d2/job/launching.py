"""Start the processes of a job; bad input that one of them meets is raised here as what it is.

Detectron2's ``launch`` tells of the process that was seen to end first, by a traceback. That may
be one that only lost its connection to the process with the real error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import launch as detectron2_launch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from nds_plugin.command_line import users_mistake
from nds_plugin.engine.orphans import adopt_orphans, end_with_parent
from nds_plugin.engine.processes import TIMEOUT
from nds_plugin.errors import NDSError
from nds_plugin.job.leaving import leave_processes


def check_processes(args: argparse.Namespace, device: str) -> int:
    """Number of processes of the whole job.

    Args:
        args: of Detectron2's argument parser.
        device: ``MODEL.DEVICE``.

    Raises:
        NDSError: numbers out of range, or more GPUs than this machine has.
    """
    for name, low in (("num_gpus", 1), ("num_machines", 1), ("machine_rank", 0)):
        if getattr(args, name) < low:
            flag = name.replace("_", "-")
            raise NDSError(f"--{flag} must be {low} or more, got {getattr(args, name)}.")
    if args.machine_rank >= args.num_machines:
        raise NDSError(
            f"--machine-rank must be 0 to {args.num_machines - 1} on {args.num_machines} machines, "
            f"got {args.machine_rank}."
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise NDSError("--dist-url auto is for one machine: give tcp://HOST:PORT of machine 0.")
    gpus = torch.cuda.device_count()
    if device.startswith("cuda") and 0 < gpus < args.num_gpus:
        raise NDSError(f"--num-gpus is {args.num_gpus}, but torch sees {gpus} GPUs here.")
    if device == "cpu" and gpus and args.num_gpus * args.num_machines > 1:
        raise NDSError(
            "several processes on the CPU of a machine with GPUs would talk over the GPUs' NCCL: hide them "
            "by CUDA_VISIBLE_DEVICES='', or use MODEL.DEVICE cuda."
        )
    return int(args.num_gpus * args.num_machines)


def launch(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run ``work(args)`` in every process of the job on this machine, by Detectron2's ``launch``.

    Raises:
        NDSError: what a process raised as such, whichever ended first.
    """
    if args.num_gpus * args.num_machines == 1:
        work(args)
        return
    # A pipe, since the disk may be what is full.
    reports = get_context("spawn").SimpleQueue()
    try:
        with _no_orphans():
            detectron2_launch(
                _reporting,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(work, args, reports, os.getpid()),
                timeout=TIMEOUT,
            )
    except (ProcessRaisedException, ProcessExitedException):
        if reports.empty():
            raise
        raise NDSError(reports.get()) from None
    finally:
        reports.close()


def _reporting(
    work: Callable[[argparse.Namespace], None], args: argparse.Namespace, reports: Any, launcher: int
) -> None:
    if sys.platform == "linux":
        # torch asks for SIGINT, which a process that waits for others in C++ does not look at.
        end_with_parent(signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)
    try:
        work(args)
        leave_processes()
    except Exception as error:
        message = users_mistake(error)
        if message is not None:
            with contextlib.suppress(OSError):
                reports.put(message)
        raise


@contextlib.contextmanager
def _no_orphans() -> Iterator[None]:
    """End, with the block, all processes that its processes started and left behind (on Linux).

    torch terminates the ranks when one fails, and their loader workers look now and then whether
    their parent is the one they started with: a worker that starts to look after the rank's death
    stays for ever, and writes to the terminal.
    """
    if sys.platform != "linux":
        yield
        return
    before = _children()
    adopt_orphans(True)
    try:
        yield
    finally:
        adopt_orphans(False)
        for pid in _children() - before:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """Ids of this process's children."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = status.read_text(errors="replace").split(" ", 1)
            if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(pid))
    return found
