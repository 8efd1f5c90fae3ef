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
from nds_plugin.experiments.results import OtherDataError
from nds_plugin.experiments.rows import Cell
from nds_plugin.files.artifacts import is_valid, read_json, write_json
from nds_plugin.files.locking import NAME as LOCK
from nds_plugin.files.locking import HeldLock, try_lock

logger = logging.getLogger(__name__)

CELL, ATTEMPTS, CONSOLE = "cell.json", "attempts.json", "console.txt"
_POLL = 0.2  # seconds
_TROUBLE = (NDSError, OSError, LookupError)  # of one cell, which the others do not suffer from
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
        failed: why, mostly the last line that the cell printed.
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

    Raises:
        OtherDataError: from ``finish``.
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
        self._signals = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        # Noted, and acted upon between two steps: raised inside Popen, it would leave a process unknown.
        before = {
            number: signal.signal(number, self._note_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            while self._queue or self._running:
                self._start_some()
                if self._signals:
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
        self._signals += 1

    def _start_some(self) -> None:
        while self._queue and self._free and not self._signals:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self.outcome.not_started += [job.cell.name for job in self._queue]
                logger.info("time limit: %d cells are not started.", len(self._queue))
                self._queue.clear()
                return
            job = self._queue.popleft()
            try:
                self._start_one(job)
            except _TROUBLE as error:
                self._failed(job, f"it cannot be started: {error}")

    def _start_one(self, job: Job) -> None:
        name = job.cell.name
        lock = try_lock(job.folder / LOCK)
        if lock is None:
            logger.info("%s: another process works on it.", name)
            self.outcome.failed.pop(name, None)
            self.outcome.elsewhere.append(name)
            return
        try:
            if job.is_done:  # by another runner, since the plan was made
                self._done(name)
            else:
                self._running.append(_start(job, self._free[-1], lock))
                self._free.pop()
                lock = None  # the process's now
        finally:
            if lock:
                lock.release()

    def _ended(self, running: _Running) -> None:
        job, status = running.job, running.process.returncode
        self._running.remove(running)
        self._free.append(running.slot)
        _signal_group(running.process, signal.SIGKILL)  # what it started and left behind
        try:
            seconds = _note_end(running)
            if status:
                self._failed(job, _told_end(job, status), again=status != _USERS_MISTAKE)
                return
            self._finish(job, seconds)
        except OtherDataError:  # no other cell could be kept either
            raise
        except _TROUBLE as error:
            self._failed(job, f"its results cannot be used: {error}", again=False)
            return
        finally:
            running.lock.release()
        self._done(job.cell.name)
        left = len(self._queue) + len(self._running)
        logger.info("%s: finished in %.0f s; %d of %d left.", job.cell.name, seconds, left, self._total)

    def _done(self, name: str) -> None:
        self.outcome.failed.pop(name, None)
        self.outcome.done.append(name)

    def _failed(self, job: Job, problem: str, *, again: bool = True) -> None:
        name = job.cell.name
        self._failures[name] += 1
        self.outcome.failed[name] = problem
        again = again and self._failures[name] <= self._retries
        logger.error("%s failed%s: %s", name, " and is tried again" if again else "", problem)
        if again:
            self._queue.append(job)

    def _stop(self) -> None:
        """End what runs, at a second signal at once; a later start goes on from its checkpoints."""
        for running in self._running:
            _signal_group(running.process, signal.SIGTERM)
        if self._running:
            logger.info("ending what runs (%d); Ctrl-C again kills it.", len(self._running))
        told = min(self._signals, 1)
        while self._signals == told and any(running.process.poll() is None for running in self._running):
            time.sleep(_POLL)
        for running in self._running:
            _signal_group(running.process, signal.SIGKILL)  # and what it started and left behind
            running.process.wait()
            with contextlib.suppress(*_TROUBLE):
                _note_end(running)
            running.lock.release()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _start(job: Job, slot: Mapping[str, str], lock: HeldLock) -> _Running:
    logger.info("%s: started, output in %s.", job.cell.name, job.folder / CONSOLE)
    earlier = [_ended_by_now(attempt, job.folder) for attempt in _attempts(job)]
    _write_attempts(job, [*earlier, {"started": _now(), "seconds": None, "status": None}])
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


def _note_end(running: _Running) -> float:
    """Write down how an attempt ended; the seconds of all attempts."""
    attempts = _attempts(running.job)
    seconds = round(time.monotonic() - running.start, 1)
    attempts[-1] |= {"seconds": seconds, "status": running.process.returncode}
    _write_attempts(running.job, attempts)
    return sum(attempt["seconds"] or 0.0 for attempt in attempts)


def _attempts(job: Job) -> list[dict[str, Any]]:
    """The starts of a cell under this config; ``seconds`` is None of one that runs, or whose runner was killed."""
    path = job.folder / ATTEMPTS
    known = any(is_valid(path, "attempts", key) for key in (job.config_hash, ""))  # "": of an earlier version
    return list(read_json(path, "attempts")["attempts"]) if known else []


def _write_attempts(job: Job, attempts: Sequence[Mapping[str, Any]]) -> None:
    write_json(job.folder / ATTEMPTS, "attempts", job.config_hash, {"attempts": attempts})


def _ended_by_now(attempt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An attempt whose runner was killed lasted until the cell last told something."""
    if attempt["seconds"] is not None:
        return attempt
    started = datetime.datetime.fromisoformat(attempt["started"]).timestamp()
    told = (folder / CONSOLE).stat().st_mtime if (folder / CONSOLE).is_file() else started
    return {**attempt, "seconds": round(max(0.0, told - started), 1)}


def _told_end(job: Job, status: int) -> str:
    """Why a process with this exit status ended: its last line, and the signal that killed it."""
    line = _last_line(job.folder / CONSOLE)
    if status > 0:
        return line or f"exit status {status}"
    killed = f"killed by signal {-status}{' (out of memory?)' if status == -signal.SIGKILL else ''}"
    return f"{killed}; last line: {line}" if line else killed


def _last_line(console: Path) -> str:
    lines = [
        line for line in console.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    text = lines[-1] if lines else ""
    return "" if text.startswith("== ") else text[:500]


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
