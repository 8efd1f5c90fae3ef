"""The processes of a launcher that run a job together, of which there may be one."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
TIMEOUT = datetime.timedelta(days=7)  # ranks wait while the main process makes an artefact


class Processes(Protocol):
    """The processes that run a job together; all of them call what waits, in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process; 0 is the one that writes."""
        ...

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...

    def barrier(self) -> None:
        """Wait for all, as long as the longest step may take."""
        ...

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; none may be long in coming."""
        ...


class OneProcess:
    """The processes of a job that has one."""

    rank = 0
    world_size = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def all_gather(self, value: T) -> list[T]:
        """The one value."""
        return [value]


def agreed(processes: Processes, compute: Callable[[], T]) -> T:
    """The main process's result, on all processes."""
    value = compute() if processes.rank == 0 else None
    processes.barrier()  # waits as long as the job may; a gather would give up after 30 minutes
    return processes.all_gather(value)[0]  # type: ignore[return-value]
