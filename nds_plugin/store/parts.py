"""Long work cut into units: done by processes, kept on disk one by one, not done again after an interruption."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write

logger = logging.getLogger(__name__)

PROCESSES = "NDS_PROCESSES"  # the environment variable

Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Unit(Generic[Argument]):
    """A piece of the work.

    Attributes:
        key: of everything that the result depends on (:func:`unit_key`); names the result's file.
        argument: what ``work`` is given; must pickle.
        size: how much work it is, for the progress bar.
    """

    key: str
    argument: Argument
    size: int = 1


def unit_key(*content: str | bytes | memoryview) -> str:
    """A short hash of some texts and bytes, for the key of a unit."""
    digest = hashlib.sha256()
    for part in content:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def map_parts(
    units: Iterable[Unit[Argument]],
    work: Callable[[Argument], pa.Table],
    folder: Path,
    description: str,
    total: int | None = None,
    processes: int | None = None,
) -> Iterator[pa.Table]:
    """The results of ``work`` on each unit, in the units' order, memory-mapped.

    Each result is an Arrow file in ``folder``, written atomically as soon as it is there; a unit whose
    file is there, whole, is not done again. Units are taken from the iterable as they are needed.

    Args:
        units: what to do.
        work: a function of a module, not a lambda; the processes are forked, as those of torch's loader.
        folder: made if need be; see :class:`StoreSpec` for its life.
        description: for the progress bar.
        total: sum of the units' sizes, for the progress bar.
        processes: how many; default ``default_processes()``; 1 works in this process.

    Raises:
        NDSError: what ``work`` raises; the folder cannot be written; a process was killed.
    """
    processes = processes or default_processes()
    todo = iter(units)
    waiting: collections.deque[tuple[Unit[Argument], Future[None] | None]] = collections.deque()
    with _killed_is_told(description), contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, desc=description, disable=None, delay=2))
        pool = None
        while True:
            for unit in itertools.islice(todo, 2 * processes + 1 - len(waiting)):
                future = None
                if _load(_path(folder, unit)) is None:
                    if processes == 1:
                        _do(work, unit, folder)
                    else:
                        pool = pool or stack.enter_context(_pool(processes))
                        future = pool.submit(_do, work, unit, folder)
                waiting.append((unit, future))
            if not waiting:
                return
            unit, future = waiting.popleft()
            yield _result(unit, future, folder)
            bar.update(unit.size)


def usable_cores() -> int:
    """Cores of this process, which a container or a batch system may have fewer of than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_processes() -> int:
    """``$NDS_PROCESSES``, which a tool sets that builds several stores at once; else one for each core.

    Raises:
        NDSError: the variable is no whole number above 0.
    """
    value = os.environ.get(PROCESSES, "")
    if not value:
        return usable_cores()
    if not value.isdecimal() or int(value) == 0:
        raise NDSError(f"{PROCESSES} must be a number of processes above 0, got {value!r}.")
    return int(value)


@contextlib.contextmanager
def _killed_is_told(description: str) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:  # of a result, or of a unit that is handed in after the process is gone
        raise NDSError(
            f"{description}: one of the processes was killed, most likely for want of memory: start again, what is "
            "finished is kept."
        ) from None


def _result(unit: Unit[Any], future: Future[None] | None, folder: Path) -> pa.Table:
    if future is not None:
        future.result()
    table = _load(_path(folder, unit))
    if table is None:
        raise NDSError(f"{_path(folder, unit)}: written a moment ago, and gone: is another process at it?")
    return table


def _path(folder: Path, unit: Unit[Any]) -> Path:
    return folder / f"{unit.key}.arrow"


def _load(path: Path) -> pa.Table | None:
    """A part, None where it is missing or damaged."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        logger.warning("%s cannot be read (%s) and is made again.", path, error)
        return None


def _do(work: Callable[[Any], pa.Table], unit: Unit[Any], folder: Path) -> None:
    table = work(unit.argument)
    with atomic_write(_path(folder, unit)) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, _die_with, (os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _die_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed: it would hold the parent's lock for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
