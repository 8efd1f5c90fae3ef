"""Jobs that start together: one at a time in shared artefacts, and a single one in a folder of results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nds_plugin.engine.processes import Processes
from nds_plugin.errors import NDSError, NoLocksError
from nds_plugin.files.locking import HeldLock, folder_lock, try_lock, warn_of_no_locks

PATIENCE = 10.0  # seconds: loader processes outlive a job that was killed for a while, and hold its lock


@contextlib.contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Jobs that share the folder and start together would all train the same experts: one at a time."""
    with folder_lock(folder) if processes.rank == 0 else contextlib.nullcontext():
        processes.barrier()
        yield


@contextlib.contextmanager
def only_job_in(output: Path, processes: Processes) -> Iterator[None]:
    """Refuse to be the second job in a folder of results: each would set the other's trainings aside.

    Where the file system has no locks, a warning.

    Raises:
        NDSError: another job runs in it.
    """
    lock = _claimed(output) if processes.rank == 0 else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _claimed(output: Path) -> HeldLock | None:
    path = output / ".job.lock"  # .lock itself is that of a table's runner
    try:
        lock = try_lock(path, PATIENCE)
    except NoLocksError:
        warn_of_no_locks(output)
        return None
    if lock is None:
        raise NDSError(
            f"another job runs in the output folder {output}: give this one another folder, or start it after "
            f"that job; where none runs, remove {path}."
        )
    return lock
