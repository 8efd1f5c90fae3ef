"""Passes over shards on a Ray cluster. Ray is imported here alone.

Ray moves the work and says when a node is gone; what is done is known by the files, which this process looks at.
Nodes and this process therefore see the same folders, by the same paths.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nds_plugin import __version__, extras
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.executor import (
    ATTEMPTS,
    MOST_FAILED,
    Executor,
    Failure,
    Pass,
    Shard,
    log_attempt,
    log_kept,
)
from nds_plugin.engine.processes import Processes
from nds_plugin.engine.ray_cluster import join, large_enough, too_small
from nds_plugin.errors import NDSError, one_line

_WAIT = 60.0  # seconds without a finished task after which the nodes are looked at; our choice
_PATIENCE = 10  # such looks without a node that could run a task before a pass ends; our choice
# Seconds before the second and the third attempt, since a node that fails at once is always free; our choice.
_PAUSES = (1.0, 10.0)
_AHEAD = 8  # shards that wait at Ray beyond two for each task that can run at once; our choice

logger = logging.getLogger(__name__)


class RayExecutor(Executor):
    """Tasks of Ray, one a shard, tried again elsewhere when a node, a process or the work itself fails.

    Args:
        config: the cluster, and what a task takes of it.
        processes: of the job; the main one alone talks to Ray.

    Raises:
        NDSError: see :func:`~nds_plugin.engine.ray_cluster.join`.
    """

    def __init__(self, config: EngineConfig, processes: Processes | None = None) -> None:
        super().__init__(processes, "cuda" if config.ray_gpus else "cpu")
        self.config = config
        if self.processes.rank == 0:
            with extras.needed_for("the engine ray (--engine, NDS.ENGINE)"):
                import ray  # noqa: F401
            join(config)

    def readers(self, wanted: int) -> int:  # noqa: ARG002, what a task takes of its node decides
        return self.config.ray_cpus - 1

    def alone(self) -> RayExecutor:
        return RayExecutor(self.config)

    def _run(self, todo: Pass, shards: Iterable[Shard[Any]], bar: tqdm) -> tuple[list[str], list[Failure]]:
        return _Run(todo, self.config, bar).run(shards) if self.processes.rank == 0 else ([], [])


@dataclass
class _Task:
    """A shard on its way, with the errors of its earlier attempts and the nodes where the work itself failed."""

    shard: Shard[Any]
    errors: list[str] = field(default_factory=list)
    failed_on: set[str] = field(default_factory=set)
    ready_at: float = 0.0


class _Run:
    """One pass."""

    def __init__(self, todo: Pass, config: EngineConfig, bar: tqdm) -> None:
        import ray

        self.todo, self.bar, self.config = todo, bar, config
        self.looks, self.looked_at = 0, time.monotonic()
        self.cpus, gpus = config.ray_cpus, config.ray_gpus if todo.on_gpu else 0.0
        self.perform = ray.remote(_perform)
        self.options = {"num_cpus": self.cpus, "num_gpus": gpus, "max_retries": 0, "name": todo.what}
        self.shared: Any = None
        self.running: dict[Any, _Task] = {}
        self.again: list[_Task] = []
        self.done: list[str] = []
        self.failed: list[Failure] = []
        self.kept = 0

    def run(self, shards: Iterable[Shard[Any]]) -> tuple[list[str], list[Failure]]:
        """Names of the shards done, and those that failed."""
        import ray

        waiting = self._missing(shards)
        try:
            while True:
                room = self._window() - len(self.running)
                more = waiting if len(self.failed) < MOST_FAILED else iter(())
                for task in itertools.islice(itertools.chain(self._again(), more), max(0, room)):
                    self._submit(task)
                if not self.running and not self.again:
                    break
                if not self.running:
                    time.sleep(0.1)  # until the pause of a failed shard is over
                    continue
                ready, _ = ray.wait(list(self.running), num_returns=1, timeout=1.0 if self.again else _WAIT)
                for reference in ready:
                    self._finish(reference, self.running.pop(reference))
                self._look(bool(ready))
        finally:
            for reference in self.running:  # an error or Ctrl-C: nobody waits for them any more
                ray.cancel(reference, force=True)
        log_kept(self.todo.what, self.kept, self.kept + len(self.done))
        return self.done, self.failed

    def _missing(self, shards: Iterable[Shard[Any]]) -> Iterable[_Task]:
        """The shards whose files are not there."""
        for shard in shards:
            if self.todo.is_done(shard):
                self.kept += 1
                self._there(shard)
            else:
                yield _Task(shard)

    def _again(self) -> Iterable[_Task]:
        for task in [waiting for waiting in self.again if waiting.ready_at <= time.monotonic()]:
            self.again.remove(task)
            yield task

    def _look(self, moving: bool) -> None:
        """While nothing finishes, whether there is a node left for the tasks.

        Raises:
            NDSError: there has been none for long.
        """
        now = time.monotonic()
        if moving:
            self.looks, self.looked_at = 0, now
        elif now - self.looked_at >= _WAIT:
            self.looked_at = now
            told = too_small(self.config)
            self.looks = self.looks + 1 if told else 0
            if self.looks >= _PATIENCE:
                raise NDSError(f"{self.todo.what}: {told} Finished shards are kept.")
            if told:
                logger.warning("%s: waiting, since %s", self.todo.what, told)

    def _window(self) -> int:
        """Shards that are at Ray at once: enough for all nodes, which come and go, and to make more come."""
        import ray

        cpus = ray.cluster_resources().get("CPU", 0.0)
        return 2 * int(cpus // self.cpus) + _AHEAD

    def _submit(self, task: _Task) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self.shared is None:
            self.shared = ray.put(self.todo.shared)
        shard, options = task.shard, dict(self.options)
        if elsewhere := _others(task, self.config):
            node = elsewhere[len(task.errors) % len(elsewhere)]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        reference = self.perform.options(**options).remote(
            self.todo.work, self.shared, shard.argument, shard.path, os.getcwd(), __version__
        )
        self.running[reference] = task

    def _finish(self, reference: Any, task: _Task) -> None:
        error = self._error(reference, task)
        if not error:
            self.done.append(task.shard.name)
            self._there(task.shard)
            return
        task.errors.append(error)
        log_attempt(task.shard.name, task.errors)
        if len(task.errors) < ATTEMPTS:
            task.ready_at = time.monotonic() + _PAUSES[len(task.errors) - 1]
            self.again.append(task)
        else:
            self.failed.append(Failure(task.shard.name, str(task.shard.path), tuple(task.errors)))

    def _error(self, reference: Any, task: _Task) -> str:
        """What went wrong with a task that has ended; empty for nothing."""
        import ray

        shard = task.shard
        try:
            found: Outcome = ray.get(reference)
        except ray.exceptions.RayError as error:
            return _lost(error)
        if not found.error and self.todo.is_done(shard):
            return ""
        task.failed_on.add(found.node_id)
        if found.error:
            if found.traceback:
                logger.debug("%s on %s:\n%s", shard.name, found.node, found.traceback)
            return f"{found.node}: {found.error}"
        if shard.path.is_file():
            return f"{found.node} wrote {shard.path}, which is not valid here: does that node see all images of the source?"
        return (
            f"{found.node} wrote {shard.path}, which is not seen from {platform.node()}: the folder must be on a "
            "file system that all nodes share."
        )

    def _there(self, shard: Shard[Any]) -> None:
        self.todo.finished(shard)
        self.bar.update(shard.size)


def _others(task: _Task, config: EngineConfig) -> list[str]:
    """Nodes for the next attempt of a shard that failed: those large enough where it has not failed."""
    return [node for node in large_enough(config) if node not in task.failed_on] if task.failed_on else []


def _lost(error: Exception) -> str:
    """The line for a task whose node or process is gone."""
    said = " ".join(str(error).split()).split(" This can happen")[0].split(" To see node")[0]
    return f"{type(error).__name__}: {said[:300]}"


@dataclass(frozen=True)
class Outcome:
    """How a task has ended: on which node, and with what error."""

    node: str
    node_id: str
    error: str = ""
    traceback: str = ""


def _perform(
    work: Callable[[Any, Any, Path], None], shared: Any, argument: Any, path: Path, folder: str, version: str
) -> Outcome:
    """Run on a node. Paths mean what they mean in the folder that the job was started in."""
    import ray

    node, node_id = _node(), ray.get_runtime_context().get_node_id()
    if version != __version__:
        return Outcome(
            node, node_id, f"has nds_plugin {__version__}, the job {version}: install the same on all nodes."
        )
    with contextlib.suppress(OSError):
        os.chdir(folder)
    try:
        work(shared, argument, path)
    except NDSError as error:
        return Outcome(node, node_id, one_line(error))
    except Exception as error:
        last = traceback.extract_tb(sys.exc_info()[2])[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        told = f"{type(error).__name__} in {where}: {error}"
        return Outcome(node, node_id, told, traceback.format_exc())
    return Outcome(node, node_id)


def _node() -> str:
    """How messages name this node."""
    import ray

    context = ray.get_runtime_context()
    return f"node {platform.node()} ({ray.util.get_node_ip_address()}, {context.get_node_id()[:8]})"
