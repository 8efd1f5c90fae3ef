"""A Ray cluster of several nodes on this machine, and nodes that are killed in the middle of a task."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.executor import Pass, Shard
from nds_plugin.engine.ray_executor import RayExecutor

OBJECT_STORE = 400 << 20  # a killed driver's network (45 MB) stays in it for a while


def started() -> Any:
    """A cluster whose head has one core."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes do not know this folder
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray's own; 15, the default, starves beside all else
    cluster = Cluster()
    with_node(cluster, include_dashboard=False)
    return cluster


def with_node(cluster: Any, **more: Any) -> Any:
    """One more node of one core; Ray gives it half a minute to start, which a busy machine may need longer for."""
    options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "include_log_monitor": False, **more}
    for attempt in range(3):
        try:
            return cluster.add_node(**options)
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == 2:
                raise
    raise AssertionError


def wait_for(marker: Path, seconds: float = 240) -> None:
    """Until the file is there."""
    deadline = time.monotonic() + seconds
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def wait_for_losses(cluster: Any, seconds: float = 120) -> None:
    """Until Ray has noticed the nodes that earlier tests killed."""
    import ray

    left = {node.node_id for node in cluster.list_all_nodes()}
    deadline = time.monotonic() + seconds
    while any(found["Alive"] and found["NodeID"] not in left for found in ray.nodes()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _held(
    work: Callable[[Any, Any, Path], None], node: str, marker: Path, shared: Any, argument: Any, path: Path
) -> None:
    """The work, once a task is at the doomed node, which only says that it is there."""
    import ray

    if ray.get_runtime_context().get_node_id() == node:
        marker.touch()
        time.sleep(600)
    wait_for(marker)  # else the others could be done with all before that node has started a process
    work(shared, argument, path)


class KillingExecutor(RayExecutor):
    """Adds a node for one pass and kills it by -9 when it is at a task of it.

    Args:
        cluster: of :func:`started`.
        what: name of the pass.
        marker: a file that is not there yet.
    """

    def __init__(self, cluster: Any, what: str, marker: Path) -> None:
        super().__init__(EngineConfig(engine="ray", ray_address=cluster.address))
        self.cluster, self.what, self.marker = cluster, what, marker

    def map(self, todo: Pass, shards: Iterable[Shard[Any]], total: int | None = None) -> list[str]:
        if todo.what != self.what:
            return super().map(todo, shards, total)
        node = with_node(self.cluster)
        held = functools.partial(_held, todo.work, node.node_id, self.marker)
        killer = threading.Thread(target=self._kill, args=(node,))
        killer.start()
        try:
            return super().map(dataclasses.replace(todo, work=held), shards, total)
        finally:
            killer.join()

    def _kill(self, node: Any) -> None:
        wait_for(self.marker)
        self.cluster.remove_node(node, allow_graceful=False)


def nothing(shared: Any, argument: Any, path: Path) -> None:
    """Work that leaves no file, as on a node that does not share the folder."""


def refused_by(node: str, shared: Any, argument: Any, path: Path) -> None:
    """Work that fails on one node alone, as where a folder is not mounted."""
    import ray

    if ray.get_runtime_context().get_node_id() == node:
        raise OSError("not mounted")
    time.sleep(2)  # so that the other node is always the free one
    path.write_text("done", encoding="utf-8")
