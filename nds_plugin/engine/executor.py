"""One pass over shards: each makes one file, tasks may run more than once, and what fails is named."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from nds_plugin.engine.processes import OneProcess, Processes
from nds_plugin.errors import NDSError, few, one_line
from nds_plugin.files.artifacts import write_json

ATTEMPTS = 3  # of a shard; our choice
MOST_FAILED = 10  # shards that may fail before a pass stops; our choice
RECORD, RECORD_KIND = "failed.json", "failed_shards"

logger = logging.getLogger(__name__)

Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Shard(Generic[Argument]):
    """A piece of a pass.

    Attributes:
        name: how messages call it.
        path: the file that it makes, on a file system that all nodes share.
        argument: what the work is given for it; must pickle.
        size: how much work it is, for the progress bar.
    """

    name: str
    path: Path
    argument: Argument
    size: int = 1


@dataclass(frozen=True)
class Failure:
    """A shard that failed in all its attempts, with what went wrong in each."""

    name: str
    path: str
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Pass:
    """What is done for each shard.

    Attributes:
        what: how messages call it.
        work: ``work(shared, shard.argument, shard.path)`` writes the shard's file in one go, under a temporary
            name first. The same arguments give the same bytes: it may run more than once, at the same time even.
            A function of a module, since it travels by its name.
        is_done: whether a shard's file is there, whole, and made from the same inputs.
        shared: what the work is given for every shard; must pickle.
        finished: called in this process when a shard's file is there; what it raises ends the pass.
        on_gpu: whether the work runs a network.
    """

    what: str
    work: Callable[[Any, Any, Path], None]
    is_done: Callable[[Shard[Any]], bool]
    shared: Any = None
    finished: Callable[[Shard[Any]], None] = lambda _: None
    on_gpu: bool = True


class Executor(ABC):
    """Runs passes over shards; all processes of a job call it together.

    Args:
        processes: those of the job.
        device: where networks run.
        progress: show progress bars if on a terminal.
    """

    def __init__(
        self, processes: Processes | None = None, device: str = "cpu", progress: bool = True
    ) -> None:
        self.processes = processes or OneProcess()
        self.device = device
        self.progress = progress

    @abstractmethod
    def readers(self, wanted: int) -> int:
        """Processes that read images beside a task, where its settings ask for ``wanted``."""

    @abstractmethod
    def alone(self) -> Executor:
        """The same for passes that one process of the job runs by itself."""

    @abstractmethod
    def _run(self, todo: Pass, shards: Iterable[Shard[Any]], bar: tqdm) -> tuple[list[str], list[Failure]]:
        """Names of the shards done now by this process, and those that failed."""

    def map(self, todo: Pass, shards: Iterable[Shard[Any]], total: int | None = None) -> list[str]:
        """Make the files of all shards, but for those that are there and still valid.

        Args:
            todo: what is done for each.
            shards: taken one by one as they are needed.
            total: sum of their sizes, for the progress bar.

        Returns:
            Names of the shards that this process has made now.

        Raises:
            NDSError: a shard failed ``ATTEMPTS`` times; the record ``failed.json`` beside the shards has
                all its errors. The others are kept.
        """
        folders: set[Path] = set()

        def seen() -> Iterator[Shard[Any]]:
            for shard in shards:
                folders.add(shard.path.parent)
                yield shard

        with tqdm(total=total, desc=todo.what, disable=None if self.progress else True, delay=2) as bar:
            done, failed = self._run(todo, seen(), bar)
        self.processes.barrier()
        everywhere = [failure for found in self.processes.all_gather(failed) for failure in found]
        if everywhere:
            _record(everywhere, self.processes.rank == 0)
            raise _named(todo.what, everywhere)
        if self.processes.rank == 0:
            for folder in folders:  # of an earlier start
                (folder / RECORD).unlink(missing_ok=True)
        return done


class LocalExecutor(Executor):
    """This process, or the ranks of a launcher: shard i is done by rank i modulo their number."""

    def readers(self, wanted: int) -> int:
        return wanted

    def alone(self) -> LocalExecutor:
        return LocalExecutor(None, self.device, self.progress)

    def _run(self, todo: Pass, shards: Iterable[Shard[Any]], bar: tqdm) -> tuple[list[str], list[Failure]]:
        rank, world_size = self.processes.rank, self.processes.world_size
        done, failed = [], []
        kept = 0
        for number, shard in enumerate(shards):
            if number % world_size != rank:
                continue
            if todo.is_done(shard):
                kept += 1
            elif errors := _attempts(todo, shard):
                failed.append(Failure(shard.name, str(shard.path), errors))
                if len(failed) >= MOST_FAILED:
                    break
                continue
            else:
                done.append(shard.name)
            todo.finished(shard)
            bar.update(shard.size)
        log_kept(todo.what, kept, kept + len(done))
        return done, failed


def log_kept(what: str, kept: int, total: int) -> None:
    """Say how much of a pass an earlier run has done."""
    if kept:
        logger.info("%s: kept %d of %d finished shards", what, kept, total)


def _attempts(todo: Pass, shard: Shard[Any]) -> tuple[str, ...]:
    """Do a shard; the errors of all attempts if none succeeds.

    Only what a file system may do now and not the next time is tried again. Bad input stays bad in this process.
    """
    errors: list[str] = []
    while len(errors) < ATTEMPTS:
        try:
            todo.work(todo.shared, shard.argument, shard.path)
            return ()
        except OSError as error:
            errors.append(f"{type(error).__name__}: {error}")
            log_attempt(shard.name, errors)
    return tuple(errors)


def log_attempt(name: str, errors: list[str]) -> None:
    """Say what went wrong with a shard, and whether it is tried again."""
    then = "trying again" if len(errors) < ATTEMPTS else "giving up"
    logger.warning("%s failed (attempt %d of %d), %s: %s", name, len(errors), ATTEMPTS, then, errors[-1])


def _record(failed: list[Failure], writes: bool) -> None:
    """Keep the names and errors of failed shards beside their files."""
    if writes:
        entries = [{"shard": f.name, "file": f.path, "errors": list(f.errors)} for f in failed]
        write_json(Path(failed[0].path).parent / RECORD, RECORD_KIND, "", {"shards": entries})


def _named(what: str, failed: list[Failure]) -> NDSError:
    first = failed[0]
    names = few(failure.name for failure in failed)
    error = one_line(NDSError(first.errors[-1]))
    return NDSError(
        f"{what}: {len(failed)} shards failed {ATTEMPTS} times: {names}; the last error of the first: {error} "
        f"All errors are in {os.path.join(os.path.dirname(first.path), RECORD)}; finished shards are kept: mend "
        "the cause and start again."
    )
