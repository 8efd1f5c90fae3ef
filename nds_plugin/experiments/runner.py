"""Run the cells of a grid in processes of their own: claimed by locks, retried, never lost.

A cell is ``nds train`` on the row's config. Its folder holds what a run leaves, ``console.txt``,
``attempts.json`` and, once it is finished, ``cell.json``. Several runners may work on one folder, on one
machine or on several that share the disk. The lock of a cell is inherited by its process, so that a
cell whose runner was killed is left alone until it has ended.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.experiments.rows import Cell
from nds_plugin.files.artifacts import is_valid, read_json, write_json
from nds_plugin.files.locking import NAME as LOCK
from nds_plugin.files.locking import HeldLock, try_lock

logger = logging.getLogger(__name__)

CELL, ATTEMPTS, CONSOLE = "cell.json", "attempts.json", "console.txt"
_POLL = 0.2  # seconds
_USERS_MISTAKE = 2  # exit status of the tools


@dataclass(frozen=True)
class Job:
    """A cell to run.

    Attributes:
        folder: of the cell.
        command: that runs it and writes ``folder/results.json``.
        config_hash: of the row.
    """

    cell: Cell
    folder: Path
    command: tuple[str, ...]
    config_hash: str

    @property
    def is_done(self) -> bool:
        """Whether the cell has a finished result under this config."""
        return is_valid(self.folder / CELL, "cell", self.config_hash)


@dataclass
class Outcome:
    """What became of the jobs, by the names of their cells.

    Attributes:
        done, elsewhere, not_started: finished; in another runner's hands; left by the time limit.
        failed: the last line that the cell printed.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    not_started: list[str] = field(default_factory=list)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    slot: Mapping[str, str]
    lock: HeldLock
    start: float


def run_jobs(
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    finish: Callable[[Job, float], None],
    *,
    retries: int = 1,
    time_limit: float | None = None,
) -> Outcome:
    """Run the jobs in this order, as many at a time as there are slots.

    Args:
        slots: environment variables of each place, such as the GPUs that it may use.
        finish: called with a job whose process ended well and the seconds of all its attempts; writes
            ``cell.json``.
        retries: how often a job that failed is started again, after the others. One that ended on a
            user's mistake is not.
        time_limit: seconds after which no further job is started; those that run may end.

    Returns:
        What became of them. Nothing is raised for a job that failed.
    """
    return _Runner(jobs, slots, finish, retries, time_limit).run()


class _Runner:
    def __init__(self, jobs: Any, slots: Any, finish: Any, retries: int, time_limit: float | None) -> None:
        self._queue = collections.deque(jobs)
        self._free = list(reversed(slots))
        self._finish = finish
        self._retries = retries
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._running: list[_Running] = []
        self._failures: collections.Counter[str] = collections.Counter()
        self._total = len(self._queue)
        self._told_to_stop = False
        self.outcome = Outcome()

    def run(self) -> Outcome:
        # Noted, and acted upon between two steps: raised inside Popen, it would leave a process unknown.
        before = {
            number: signal.signal(number, self._note_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            while self._queue or self._running:
                self._start_some()
                if self._told_to_stop:
                    raise KeyboardInterrupt
                if self._running:
                    time.sleep(_POLL)
                for running in [r for r in self._running if r.process.poll() is not None]:
                    self._ended(running)
        except BaseException:
            self._stop()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.outcome

    def _note_signal(self, *_: Any) -> None:
        self._told_to_stop = True

    def _start_some(self) -> None:
        while self._queue and self._free and not self._told_to_stop:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self.outcome.not_started += [job.cell.name for job in self._queue]
                logger.info("time limit: %d cells are not started.", len(self._queue))
                self._queue.clear()
                return
            job = self._queue.popleft()
            lock = try_lock(job.folder / LOCK)
            if lock is None:
                logger.info("%s: another process works on it.", job.cell.name)
                self.outcome.elsewhere.append(job.cell.name)
            elif job.is_done:  # by another runner, since the plan was made
                lock.release()
                self.outcome.done.append(job.cell.name)
            else:
                self._running.append(_start(job, self._free.pop(), lock))

    def _ended(self, running: _Running) -> None:
        job, status = running.job, running.process.returncode
        self._running.remove(running)
        self._free.append(running.slot)
        _note_end(job.folder, time.monotonic() - running.start, status)
        name = job.cell.name
        problem = "" if status == 0 else _last_line(job.folder / CONSOLE) or f"exit status {status}"
        if not problem:
            try:
                self._finish(job, _seconds(job.folder))
            except (NDSError, KeyError) as error:
                problem, status = f"its results cannot be used: {error}", _USERS_MISTAKE
        running.lock.release()
        if not problem:
            self.outcome.done.append(name)
            self.outcome.failed.pop(name, None)
            left = len(self._queue) + len(self._running)
            logger.info(
                "%s: finished in %.0f s; %d of %d left.", name, _seconds(job.folder), left, self._total
            )
            return
        self._failures[name] += 1
        self.outcome.failed[name] = problem
        again = status != _USERS_MISTAKE and self._failures[name] <= self._retries
        logger.error("%s failed%s: %s", name, " and is tried again" if again else "", problem)
        if again:
            self._queue.append(job)

    def _stop(self) -> None:
        """End what runs; a later start goes on from its checkpoints."""
        for running in self._running:
            _signal_group(running.process, signal.SIGTERM)
        for running in self._running:
            running.process.wait()
            _signal_group(running.process, signal.SIGKILL)  # what it started and left behind
            _note_end(running.job.folder, time.monotonic() - running.start, running.process.returncode)
            running.lock.release()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _start(job: Job, slot: Mapping[str, str], lock: HeldLock) -> _Running:
    logger.info("%s: started, output in %s.", job.cell.name, job.folder / CONSOLE)
    earlier = [_ended_by_now(attempt, job.folder) for attempt in _attempts(job.folder)]
    attempts = [*earlier, {"started": _now(), "seconds": None, "status": None}]
    write_json(job.folder / ATTEMPTS, "attempts", "", {"attempts": attempts})
    with open(job.folder / CONSOLE, "ab") as console:
        console.write(f"\n== {_now()}: {' '.join(job.command)}\n".encode())
        console.flush()
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            pass_fds=(lock.descriptor,),
            start_new_session=True,  # so that all that it starts can be ended with it
        )
    return _Running(job, process, slot, lock, time.monotonic())


def _note_end(folder: Path, seconds: float, status: int) -> None:
    attempts = _attempts(folder)
    attempts[-1] = {**attempts[-1], "seconds": round(seconds, 1), "status": status}
    write_json(folder / ATTEMPTS, "attempts", "", {"attempts": attempts})


def _attempts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a cell; ``seconds`` is None of one that runs, or whose runner was killed."""
    path = folder / ATTEMPTS
    return list(read_json(path, "attempts")["attempts"]) if path.is_file() else []


def _ended_by_now(attempt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An attempt whose runner was killed lasted until the cell last told something."""
    if attempt["seconds"] is not None:
        return attempt
    started = datetime.datetime.fromisoformat(attempt["started"]).timestamp()
    told = (folder / CONSOLE).stat().st_mtime if (folder / CONSOLE).is_file() else started
    return {**attempt, "seconds": round(max(0.0, told - started), 1)}


def _seconds(folder: Path) -> float:
    return sum(attempt["seconds"] or 0.0 for attempt in _attempts(folder))


def _last_line(console: Path) -> str:
    lines = [
        line for line in console.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    text = lines[-1] if lines else ""
    return "" if text.startswith("== ") else text[:500]


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
