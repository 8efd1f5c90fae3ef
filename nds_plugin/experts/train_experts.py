"""Training the experts of a partition: one shared network, then one expert per cluster.

:func:`train_experts` calls :func:`prepare_shared`, :func:`train_cluster_experts` and, on the main process,
:func:`write_manifest`. Each step skips what is there and still valid, so that a killed run goes on where it
stopped. An executor says who trains: this process, the ranks of a launcher, or a Ray cluster.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nds_plugin.engine.executor import Executor, LocalExecutor, Pass, Shard
from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, load_network, read_network, valid_header, write_network
from nds_plugin.experts.manifest import ARCH, KIND, MANIFEST, SHARED, expert_file, set_hash
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.experts.tasks import Task, get_task
from nds_plugin.experts.train_network import (
    TrainingSet,
    TrainingStats,
    Weights,
    expert_key,
    shared_key,
    train_network,
)
from nds_plugin.files.artifacts import content_hash, file_hash, is_valid, write_json
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.networks import MEAN, STD
from nds_plugin.source.index import NO_LABEL, SourceIndex, take_rows

if TYPE_CHECKING:
    from nds_plugin.source.partition import Partition

__all__ = [
    "ExpertConfig",
    "ExpertSet",
    "experts_key",
    "is_complete",
    "load_network",
    "prepare_shared",
    "train_cluster_experts",
    "train_experts",
    "train_shared",
    "write_manifest",
]

logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")


def train_shared(
    index: SourceIndex, config: ExpertConfig, device: torch.device = _CPU, *, progress: bool = True
) -> tuple[Weights, TrainingStats]:
    """Train one network on the whole source for ``config.shared_steps`` steps.

    The experts start from it, the partition can take its features, and relative scores compare
    to it.

    Raises:
        NDSError: ``shared_steps`` is 0; or see :func:`training.train_network`.
    """
    if config.shared_steps == 0:
        raise NDSError("--shared-steps (NDS.EXPERTS.SHARED_STEPS) is 0: the shared network needs 1 or more.")
    task = get_task(config.task, index.classes)
    data = _training_set(index, np.arange(len(index)), task, "shared network", 0)
    return train_network(data, task, config, config.shared_steps, device, progress=progress)


def prepare_shared(
    index: SourceIndex,
    config: ExpertConfig,
    out_dir: str | os.PathLike[str],
    *,
    device: torch.device = _CPU,
    progress: bool = True,
    executor: Executor | None = None,
) -> Path | None:
    """Train the shared network unless its file is there and valid.

    Args:
        index, config: the source, and how.
        out_dir: folder of the file.
        device, progress: where, and whether a bar shows it, where there is no executor.
        executor: whose one process or node trains it; all its processes call this. By default this process.

    Returns:
        The file (see :func:`load_network`), or None if ``config.shared_steps`` is 0.
    """
    if config.shared_steps == 0:
        return None
    executor = executor or LocalExecutor(None, str(device), progress)
    path, key = Path(out_dir) / SHARED, shared_key(index.hash, config)
    if agreed(executor.processes, lambda: valid_header(path, key) is not None):
        logger.info("shared network: kept %s", path)
        return path
    logger.info("shared network: %d steps of %d images", config.shared_steps, config.batch_size)
    done = Pass("shared network", _train_shared, lambda shard: valid_header(shard.path, key) is not None, key)
    argument = (index, _on(config, executor), executor.device, executor.progress)
    executor.map(done, [Shard("the shared network", path, argument)])
    return path


def _train_shared(key: str, argument: tuple[SourceIndex, ExpertConfig, str, bool], path: Path) -> None:
    index, config, device, progress = argument
    weights, stats = train_shared(index, config, torch.device(device), progress=progress)
    classes = get_task(config.task, index.classes).classes
    write_network(path, weights, {"key": key, "outputs": len(classes), **asdict(stats)})


def _on(config: ExpertConfig, executor: Executor) -> ExpertConfig:
    """The config with as many readers as the executor has for a task."""
    return replace(config, num_workers=executor.readers(config.num_workers))


@dataclass(frozen=True)
class _Training:
    """What the training of all experts shares."""

    task: Task
    config: ExpertConfig
    initial: Weights | None
    device: str
    progress: bool


@dataclass(frozen=True)
class _Cluster:
    """One expert to train; ``key`` is the hash of all that decides it."""

    cluster: int
    data: TrainingSet
    key: str


def train_cluster_experts(
    index: SourceIndex,
    partition: Partition,
    config: ExpertConfig,
    out_dir: str | os.PathLike[str],
    *,
    device: torch.device = _CPU,
    progress: bool = True,
    executor: Executor | None = None,
) -> list[int]:
    """Train an expert for each cluster; all processes of the executor call this.

    Experts whose files are there and valid are kept.

    Args:
        index, partition, config: the source, its clusters, and how.
        out_dir: folder of the experts; with init ``shared`` it holds the shared network.
        device, progress: where, and whether bars show it, where there is no executor.
        executor: who trains them, a cluster a task; by default this process.

    Returns:
        The clusters that this process has trained now.

    Raises:
        NDSError: the partition is of another index, the shared network is missing, or see
            :func:`training.train_network`.
    """
    partition.check_matches(index)
    executor = executor or LocalExecutor(None, str(device), progress)
    task = get_task(config.task, index.classes)
    initial = _initial_weights(index, config, Path(out_dir))
    names = [f"cluster {k}" for k in range(partition.num_clusters)]

    def shards() -> Iterator[Shard[_Cluster]]:
        for k, name in enumerate(names):
            key = expert_key(index.hash, partition.hash, k, config)
            data = _training_set(index, partition.members(k), task, name, k + 1)
            yield Shard(name, Path(out_dir) / expert_file(k), _Cluster(k, data, key))

    shared = _Training(task, _on(config, executor), initial, executor.device, executor.progress)
    trained = executor.map(Pass("experts", _train_cluster, _is_trained, shared), shards(), len(names))
    return sorted(names.index(name) for name in trained)


def _train_cluster(shared: _Training, cluster: _Cluster, path: Path) -> None:
    task, device, config = shared.task, torch.device(shared.device), shared.config
    weights, stats = train_network(
        cluster.data, task, config, config.steps, device, initial=shared.initial, progress=shared.progress
    )
    header = {"key": cluster.key, "outputs": len(task.classes), "cluster": cluster.cluster, **asdict(stats)}
    write_network(path, weights, header)


def _is_trained(shard: Shard[_Cluster]) -> bool:
    if valid_header(shard.path, shard.argument.key) is None:
        return False
    logger.info("%s: kept %s", shard.name, shard.path)
    return True


def _initial_weights(index: SourceIndex, config: ExpertConfig, out_dir: Path) -> Weights | None:
    if config.init == "scratch":
        return None
    path = out_dir / SHARED
    weights, header = read_network(path)
    if header["key"] != shared_key(index.hash, config):
        raise NDSError(f"{path} is of another index or config: run prepare_shared first.")
    return weights


def _training_set(
    index: SourceIndex, rows: npt.NDArray[np.int64], task: Task, what: str, stream: int
) -> TrainingSet:
    labels = index.column("label")[rows].astype(np.int64)
    if task.needs_labels:
        known = labels != NO_LABEL
        if not known.any():
            raise NDSError(
                f"{what}: none of its {len(rows)} images has a label, which task {task.name!r} needs: use "
                "task 'rotation' or a partition by label."
            )
        if not known.all():
            logger.info("%s: skipped %d images without a label", what, int((~known).sum()))
        rows, labels = rows[known], labels[known]
    paths = take_rows(index.table.select(["file_name"]), rows).column(0).to_pylist()
    return TrainingSet(what, stream, paths, labels)


def experts_key(index: SourceIndex, partition: Partition, config: ExpertConfig) -> str:
    """Hash of everything a whole set of experts is made from."""
    return content_hash([KIND, index.hash, partition.hash, partition.num_clusters, config.identity()])


def is_complete(out_dir: str | os.PathLike[str], key: str) -> bool:
    """Whether a folder holds the whole set of experts made from exactly these inputs."""
    if not is_valid(Path(out_dir) / MANIFEST, KIND, key):
        return False
    try:
        ExpertSet.load(out_dir).verify()
    except NDSError:
        return False
    return True


def write_manifest(
    index: SourceIndex, partition: Partition, config: ExpertConfig, out_dir: str | os.PathLike[str]
) -> ExpertSet:
    """Write the manifest of a folder in which all experts are trained.

    Raises:
        NDSError: an expert is missing or was made from other inputs.
    """
    out_dir = Path(out_dir)
    task = get_task(config.task, index.classes)
    experts = []
    for cluster in range(partition.num_clusters):
        key = expert_key(index.hash, partition.hash, cluster, config)
        entry = _entry(out_dir, expert_file(cluster), key)
        experts.append({"cluster": cluster, **entry, "cluster_images": int(partition.sizes[cluster])})
    shared = None
    if config.shared_steps:
        shared = _entry(out_dir, SHARED, shared_key(index.hash, config))
    manifest: dict[str, Any] = {
        "task": task.name, "arch": ARCH, "crop_size": config.crop_size,
        "resize_size": resize_size(config.crop_size), "mean": list(MEAN), "std": list(STD),
        "classes": list(task.classes), "partition": partition.hash, "index": index.hash,
        "sources": index.sources, "config": config.identity(), "experts": experts, "shared": shared,
    }  # fmt: skip
    manifest["hash"] = set_hash(manifest)
    write_json(out_dir / MANIFEST, KIND, experts_key(index, partition, config), manifest)
    return ExpertSet.load(out_dir)


def _entry(out_dir: Path, name: str, key: str) -> dict[str, Any]:
    header = valid_header(out_dir / name, key)
    if header is None:
        raise NDSError(
            f"{out_dir / name} is missing, cut short or made from other inputs: run "
            "train_cluster_experts first."
        )
    stats = ("images", "steps", "train_accuracy", "train_loss", "precision", "unreadable")
    return {"file": name, "sha256": file_hash(out_dir / name), **{k: header[k] for k in stats}}


def train_experts(
    index: SourceIndex,
    partition: Partition,
    config: ExpertConfig,
    out_dir: str | os.PathLike[str],
    *,
    device: torch.device = _CPU,
    progress: bool = True,
    executor: Executor | None = None,
) -> ExpertSet:
    """All three steps; see the module's docstring. All processes of the executor call this."""
    executor = executor or LocalExecutor(None, str(device), progress)
    key = experts_key(index, partition, config)
    if not agreed(executor.processes, lambda: is_complete(out_dir, key)):
        prepare_shared(index, config, out_dir, executor=executor)
        train_cluster_experts(index, partition, config, out_dir, executor=executor)
        if executor.processes.rank == 0:
            write_manifest(index, partition, config, out_dir)
        executor.processes.barrier()
    return ExpertSet.load(out_dir)
