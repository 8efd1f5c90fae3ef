"""Build the stores of several datasets, some at once: what is wrong with one does not stop the others."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nds_plugin.command_line import users_mistake
from nds_plugin.datasets.catalogue import find_split
from nds_plugin.datasets.public import MissingFilesError
from nds_plugin.store import AnnotationStore, StoreSpec, open_or_build
from nds_plugin.store.opening import open_built
from nds_plugin.store.parts import PROCESSES

logger = logging.getLogger(__name__)

# Forking would copy the threads' locks of this process, in whatever state they are.
_CONTEXT = multiprocessing.get_context("spawn")

BUILT, UP_TO_DATE, MISSING, FAILED = "built", "up to date", "not found", "failed"


@dataclass(frozen=True)
class Outcome:
    """How the store of a split came out.

    Attributes:
        name: of the split. state: BUILT, UP_TO_DATE, MISSING or FAILED.
        images, annotations: of the store. seconds: that it took. size: of the store, in bytes.
        reason: one line, where there is no store.
        warnings: that could not be printed when they came, beside the progress bars of others.
    """

    name: str
    state: str
    images: int = 0
    annotations: int = 0
    seconds: float = 0.0
    size: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()


def build(names: Sequence[str], root: Path, jobs: int) -> list[Outcome]:
    """Build the stores of splits of the catalogue; what is up to date is left as it is.

    Several are built at once, each in a process of its own, and the jobs are shared among them.

    Args:
        names: of the splits.
        root: DETECTRON2_DATASETS.
        jobs: processes at work, at least 1; with 1, or one split, all happens in this process.
    """
    outcomes = {name: outcome for name in names for outcome in [_nothing_to_do(name, root)] if outcome}
    todo = [name for name in names if name not in outcomes]
    if min(jobs, len(todo)) > 1:
        outcomes.update(_side_by_side(todo, root, jobs))
    else:
        with _processes(jobs), logging_redirect_tqdm():
            outcomes.update({name: build_one(name, root) for name in todo})
    return [outcomes[name] for name in names]


def _nothing_to_do(name: str, root: Path) -> Outcome | None:
    """The outcome of a split whose files are not there, or whose store is up to date; None for others."""
    start = time.perf_counter()
    try:
        spec = _spec(name, root)
        store = open_built(spec, spec.inputs())
        if store is not None:
            return _outcome_of(name, UP_TO_DATE, store, start)
    except MissingFilesError as error:
        return Outcome(name, MISSING, reason=str(error))
    except Exception as error:  # the builder meets it again, and tells
        logger.debug("%s: %s", name, error)
    return None


def build_one(name: str, root: Path) -> Outcome:
    """Build the store of one split, if need be. Never raises: what goes wrong is in the outcome."""
    start = time.perf_counter()
    try:
        spec = _spec(name, root)
        before = _stamp(spec.path)
        store = open_or_build(spec)
        return _outcome_of(name, UP_TO_DATE if _stamp(store.path) == before else BUILT, store, start)
    except Exception as error:
        reason = users_mistake(error)
        if reason is None:
            logger.exception("%s: a defect of its reader", name)
            reason = f"a defect of its reader, {type(error).__name__}: {error}"
        state = MISSING if isinstance(error, MissingFilesError) else FAILED
        return Outcome(name, state, seconds=time.perf_counter() - start, reason=reason)


def _spec(name: str, root: Path) -> StoreSpec:
    split = find_split(name)
    assert split is not None, name
    return split.spec(root)


def _outcome_of(name: str, state: str, store: AnnotationStore, start: float) -> Outcome:
    seconds, size = time.perf_counter() - start, store.path.stat().st_size
    return Outcome(name, state, len(store), store.num_annotations, seconds, size)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@contextlib.contextmanager
def _processes(count: int, **further: str) -> Iterator[None]:
    """The environment in which readers use so many processes."""
    new = {PROCESSES: str(count), **further}
    before = {key: os.environ.get(key) for key in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _side_by_side(names: Sequence[str], root: Path, jobs: int) -> dict[str, Outcome]:
    at_once = min(jobs, len(names))
    waiting = list(reversed(names))
    outcomes: dict[str, Outcome] = {}
    running: dict[Any, _Running] = {}
    free = list(range(at_once, 0, -1))  # lines below the first, which is the total's
    with _shared_lock(), tqdm(total=len(names), desc="stores", unit="store", disable=None, position=0) as bar:
        try:
            while waiting or running:
                while waiting and free:
                    started = _start(waiting.pop(), root, jobs // at_once, free.pop())
                    running[started.reader] = started
                for reader in wait(list(running)):
                    ended = running.pop(reader)
                    outcomes[ended.name] = _outcome(ended)
                    free.append(ended.line)
                    bar.update()
        finally:  # of an interruption
            for one in running.values():
                one.process.terminate()
            for one in running.values():
                one.process.join(10)
                one.process.kill()
    return outcomes


@contextlib.contextmanager
def _shared_lock() -> Iterator[None]:
    """A lock for the terminal that processes started by "spawn" can share."""
    before = tqdm.get_lock()
    tqdm.set_lock(_CONTEXT.RLock())
    try:
        yield
    finally:
        tqdm.set_lock(before)


@dataclass(frozen=True)
class _Running:
    """A split at work: where its outcome comes from, its process, its line on the terminal."""

    name: str
    reader: Connection
    process: Any
    line: int


def _start(name: str, root: Path, processes: int, line: int) -> _Running:
    reader, writer = _CONTEXT.Pipe(duplex=False)
    # tqdm reads its defaults from the environment on import: a line for each process, cleared at the
    # end (the text is taken for true unless it is empty).
    with _processes(processes, TQDM_POSITION=str(line), TQDM_LEAVE=""), _interrupts_ignored():
        process = _CONTEXT.Process(target=_in_process, args=(name, root, writer, tqdm.get_lock()))
        process.start()
    writer.close()
    return _Running(name, reader, process, line)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; those that are started here leave it to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _outcome(ended: _Running) -> Outcome:
    try:
        found: Outcome = ended.reader.recv()
    except EOFError:
        ended.process.join()
        code = ended.process.exitcode
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        reason = f"its process ended {how}, perhaps for want of memory: try again with fewer --jobs."
        return Outcome(ended.name, FAILED, reason=reason)
    finally:
        ended.reader.close()
    ended.process.join()
    return found


def _in_process(name: str, root: Path, writer: Connection, lock: Any) -> None:
    """Build one store in a process of its own, and send the outcome."""
    tqdm.set_lock(lock)
    _end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # tidies up on the way out
    kept: list[str] = []
    if sys.stderr.isatty():
        logging.basicConfig(level=logging.WARNING, handlers=[_Keep(kept.append)])
    else:
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form)
    writer.send(replace(build_one(name, root), warnings=tuple(kept)))


class _Keep(logging.Handler):
    """Hands lines on: printed here they would run into the progress bars of other processes."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record as a line."""
        self._keep(record.getMessage())


def _end_with_parent() -> None:
    """End this process when its parent is gone, even by kill -9: nobody would hear of its outcome."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
