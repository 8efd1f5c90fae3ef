"""Jobs that start together: one at a time in shared artefacts, and a single one in a folder of results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from nds_plugin.engine.processes import Processes
from nds_plugin.errors import NDSError
from nds_plugin.files.locking import HeldLock, folder_lock, try_lock

PATIENCE = 10.0  # seconds: loader processes outlive a job that was killed for a while, and hold its lock
_POLL = 0.2


@contextlib.contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Jobs that share the folder and start together would all train the same experts: one at a time."""
    with folder_lock(folder) if processes.rank == 0 else contextlib.nullcontext():
        processes.barrier()
        yield


@contextlib.contextmanager
def only_job_in(output: Path, processes: Processes) -> Iterator[None]:
    """Refuse to be the second job in a folder of results: each would set the other's trainings aside.

    Raises:
        NDSError: another job runs in it.
    """
    lock = _claimed(output) if processes.rank == 0 else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _claimed(output: Path) -> HeldLock:
    give_up = time.monotonic() + PATIENCE
    while (lock := try_lock(output / ".job.lock")) is None:  # .lock itself is that of a table's runner
        if time.monotonic() >= give_up:
            raise NDSError(
                f"another job runs in the output folder {output}: give this one another folder, or start it after that job."
            )
        time.sleep(_POLL)
    return lock
