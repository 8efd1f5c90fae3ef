"""Training head experts: one pass of features over the source, then a small fit per cluster.

Equal inputs give equal bits, on any number of cores and loader workers: features are of fixed batches, the
fits run on one thread each, on rows in an order that the index decides.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save

from nds_plugin.engine.executor import Executor, LocalExecutor, Pass, Shard
from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, write_network
from nds_plugin.experts.heads import FourRotations, Heads
from nds_plugin.experts.manifest import BACKBONE, HEAD, HEADS, KIND, MANIFEST, ROTATIONS, set_hash
from nds_plugin.experts.settings import HeadConfig
from nds_plugin.experts.tasks import RotationTask
from nds_plugin.experts.train_experts import is_complete
from nds_plugin.files.artifacts import array_hash, atomic_write, content_hash, file_hash, write_json
from nds_plugin.images.backbones import FeatureNetwork
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.crops import UNREADABLE_OF_CLUSTER
from nds_plugin.source.centroids import has_key
from nds_plugin.source.extraction import Extraction
from nds_plugin.source.feature_shards import FeatureShards
from nds_plugin.source.features import SHARD_SIZE, feature_shards, network_hash
from nds_plugin.source.index import SourceIndex, take_rows
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 1000
SHARED_IMAGES = 5000  # the shared head is fitted on a draw of at most this many; our choice
_CPU = torch.device("cpu")
_DRAW, _SHARED = 0, 1
Features = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


def heads_key(index: SourceIndex, partition: Partition, network: FeatureNetwork, config: HeadConfig) -> str:
    """Hash of everything a set of heads is made from; the backbone's weights among it."""
    made_from = [KIND, HEAD, index.hash, partition.hash, network_hash(network), config.identity()]
    return content_hash(made_from)


def train_heads(
    index: SourceIndex,
    partition: Partition,
    network: FeatureNetwork,
    config: HeadConfig,
    out_dir: str | os.PathLike[str],
    *,
    device: torch.device = _CPU,
    progress: bool = True,
    executor: Executor | None = None,
    shard_size: int = SHARD_SIZE,
) -> ExpertSet:
    """Fit the heads of a partition's clusters and write the set, unless it is there.

    Args:
        index, partition: the source and its clusters; they must belong together.
        network: the frozen backbone.
        config: how.
        out_dir: the set's folder; finished features and fits are kept in it until the set is whole, so that a
            killed run goes on where it was.
        device, progress: where the backbone runs and whether bars show it, where there is no executor.
        executor: who computes features and fits; all its processes call this. By default this process.
        shard_size: images whose features are in one file.

    Raises:
        NDSError: what does not belong together, a crop size that the network does not take, or a cluster of
            which too many images cannot be read.
    """
    partition.check_matches(index)
    dimension = network.dimension(config.crop_size)
    executor = executor or LocalExecutor(None, str(device), progress)
    out_dir, key = Path(out_dir), heads_key(index, partition, network, config)
    cache = out_dir / "features"
    if agreed(executor.processes, lambda: is_complete(out_dir, key)):
        logger.info("heads: kept %s", out_dir)
        if executor.processes.rank == 0:
            shutil.rmtree(cache, ignore_errors=True)  # of a run that was killed at its end
        return ExpertSet.load(out_dir)
    rows = _drawn_rows(partition, config)
    chosen = np.sort(np.concatenate(rows))
    how = Extraction(
        FourRotations(network), config.crop_size, executor.device, config.batch_size,
        executor.readers(config.num_workers), unit_length=False,
    )  # fmt: skip
    drawn = SourceIndex(take_rows(index.table, chosen), index.classes)
    shards = feature_shards(drawn, how, cache, shard_size, executor=executor)
    places = [np.searchsorted(chosen, members) for members in rows]
    readable = shards.readable()
    _check_readable(places, readable)
    heads, entries = _fit_all(shards, dimension, places, readable, config, executor, key)
    executor.processes.barrier()  # all have read the fits
    if executor.processes.rank == 0:
        names = [os.path.basename(name) for name in drawn.table.column("file_name").to_pylist()]
        for k, entry in enumerate(entries):
            entry["cluster_images"] = int(partition.sizes[k])
            entry["unreadable"] = [names[place] for place in places[k] if not readable[place]]
        _write(out_dir, key, network, heads, entries, index, partition, config)
        shutil.rmtree(cache, ignore_errors=True)
    executor.processes.barrier()
    return ExpertSet.load(out_dir)


def _drawn_rows(partition: Partition, config: HeadConfig) -> list[npt.NDArray[np.int64]]:
    """Rows of the index that each cluster's head is fitted on, ascending; one image at least."""
    drawn = []
    for cluster in range(partition.num_clusters):
        members = np.flatnonzero(partition.cluster == cluster)
        count = max(1, round(config.share * len(members)))
        sequence = np.random.SeedSequence([config.seed, _DRAW, cluster])
        rng = np.random.Generator(np.random.PCG64(sequence))
        drawn.append(np.sort(rng.permutation(members)[:count]))
    return drawn


def _check_readable(places: Sequence[npt.NDArray[np.int64]], readable: npt.NDArray[np.bool_]) -> None:
    for cluster, members in enumerate(places):
        broken = int((~readable[members]).sum())
        if broken > UNREADABLE_OF_CLUSTER * len(members):
            raise NDSError(
                f"cluster {cluster}: {broken} of its {len(members)} images cannot be read, more than "
                f"{UNREADABLE_OF_CLUSTER:.0%}: repair or remove them, or partition again."
            )


@dataclass(frozen=True)
class _Fits:
    """What the fits of all clusters share: features of shape (n, 4 D), their standardisation, c, and the key."""

    features: FeatureShards
    mean: Array
    scale: Array
    c: float
    key: str


def _fit_all(
    shards: FeatureShards,
    dimension: int,
    places: Sequence[npt.NDArray[np.int64]],
    readable: npt.NDArray[np.bool_],
    config: HeadConfig,
    executor: Executor,
    key: str,
) -> tuple[Heads, list[dict[str, Any]]]:
    """Heads of all clusters, and of each its cluster, images, training accuracy and loss.

    Args:
        shards: features, shape (n, 4 D).
        dimension: D.
        places: rows of the features by cluster.
        readable: whether a row is of an image that could be read, shape (n,).
        config: how.
        executor: a fit is a shard of its own.
        key: of the set.
    """
    mean, scale = _standardisation(shards, readable, dimension)
    used = np.flatnonzero(readable)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([config.seed, _SHARED])))
    together = np.sort(rng.permutation(used)[:SHARED_IMAGES])
    rows = {f"head of cluster {k}": members[readable[members]] for k, members in enumerate(places)}
    rows["shared head"] = together
    folder = shards.paths[0].parent
    fits = [
        Shard(name, folder / f"fit_{number:05d}.safetensors", members)
        for number, (name, members) in enumerate(rows.items())
    ]
    # Of what is there now: an image may have been repaired since a run that was killed.
    key = content_hash([key, array_hash(readable)])
    shared = _Fits(shards, mean, scale, config.c, key)
    executor.map(
        Pass("heads", _fit, lambda shard: has_key(shard.path, key), shared, on_gpu=False), fits, len(fits)
    )
    found = [_read_fit(shard.path) for shard in fits]
    for shard, (_, _, accuracy, loss) in zip(fits, found):
        logger.info(
            "%s: %d images, training accuracy %.3f, loss %.3f",
            shard.name,
            len(shard.argument),
            accuracy,
            loss,
        )
    entries = [
        {"cluster": k, "images": len(shard.argument), "train_accuracy": accuracy, "train_loss": loss}
        for k, (shard, (_, _, accuracy, loss)) in enumerate(zip(fits[:-1], found))
    ]
    tensors = [
        np.stack([weight for weight, *_ in found[:-1]]), np.stack([bias for _, bias, *_ in found[:-1]]), *found[-1][:2],
    ]  # fmt: skip
    return Heads(*(torch.from_numpy(array.astype(np.float32)) for array in tensors)), entries


def _fit(shared: _Fits, rows: npt.NDArray[np.int64], path: Path) -> None:
    """Fit one head and keep it in a file."""
    # Not held here, too, while the head is fitted.
    weight, bias, accuracy, loss = fit_head(
        shared.features.take(rows).reshape(len(rows), ROTATIONS, -1), shared.mean, shared.scale, shared.c
    )
    said = {"key": shared.key, "accuracy": repr(accuracy), "loss": repr(loss)}
    with atomic_write(path) as file:
        file.write(save({"weight": np.ascontiguousarray(weight), "bias": bias}, said))


def _read_fit(path: Path) -> tuple[Array, Array, float, float]:
    with safe_open(path, "numpy") as file:
        said = file.metadata()
        return (
            file.get_tensor("weight"),
            file.get_tensor("bias"),
            float(said["accuracy"]),
            float(said["loss"]),
        )


def _standardisation(
    shards: FeatureShards, readable: npt.NDArray[np.bool_], dimension: int
) -> tuple[Array, Array]:
    """Mean and deviation of each feature over all rotations of the readable images, shapes (D,).

    The sums run over blocks of images in the order of the index: the shards' size does not change a bit.
    """
    total, squares, count = np.zeros(dimension), np.zeros(dimension), 0
    for block in _blocks(shards, readable):
        part = block.astype(np.float64).reshape(-1, dimension)
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
        count += len(part)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return mean, np.where(deviation > 1e-6, deviation, 1.0)  # a feature that never changes stays 0


def _blocks(shards: FeatureShards, readable: npt.NDArray[np.bool_]) -> Iterator[Features]:
    """Features of the readable images, 1,000 at a time."""
    used = np.flatnonzero(readable)
    for start in range(0, len(used), 1000):
        yield shards.take(used[start : start + 1000])


def fit_head(features: Features, mean: Array, scale: Array, c: float) -> tuple[Array, Array, float, float]:
    """Multinomial logistic regression of the rotation on standardised features, for raw ones.

    Args:
        features: of images in their rotations, shape (n, 4, D).
        mean, scale: of the standardisation, shapes (D,).
        c: inverse strength of the regularisation.

    Returns:
        Weights (4, D) and biases (4,) for features that are not standardised, training accuracy and loss.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    x = features.reshape(-1, features.shape[2]).astype(np.float64)
    y = np.tile(np.arange(features.shape[1]), len(features))
    del features
    x -= mean
    x /= scale
    with threadpool_limits(1):  # the order of a sum over threads would change the last bits
        model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(x, y)
        log_p = model.predict_log_proba(x)
        weight = model.coef_ / scale
        bias = model.intercept_ - weight @ mean
    if int(np.max(model.n_iter_)) >= MAX_ITERATIONS:
        logger.warning(
            "a head was not fitted to the end in %d iterations: lower c, now %g.", MAX_ITERATIONS, c
        )
    accuracy, loss = float((log_p.argmax(axis=1) == y).mean()), float(-log_p[np.arange(len(y)), y].mean())
    return weight, bias, round(accuracy, 6), round(loss, 6)


def _write(
    out_dir: Path,
    key: str,
    network: FeatureNetwork,
    heads: Heads,
    entries: list[dict[str, Any]],
    index: SourceIndex,
    partition: Partition,
    config: HeadConfig,
) -> None:
    """Write backbone, heads and, last, the manifest."""
    state = {name: value.cpu() for name, value in network.body.state_dict().items()}
    write_network(out_dir / BACKBONE, _plain(state), {"key": content_hash(network_hash(network))})
    write_network(out_dir / HEADS, heads.state(), {"key": key})
    files = {
        name: {"file": file, "sha256": file_hash(out_dir / file)}
        for name, file in (("backbone", BACKBONE), ("heads", HEADS))
    }
    manifest: dict[str, Any] = {
        "expert_kind": HEAD, "task": config.task, **network.describe(), "features": heads.weight.shape[2],
        "crop_size": config.crop_size, "resize_size": resize_size(config.crop_size),
        "classes": list(RotationTask.classes), "partition": partition.hash, "index": index.hash,
        "sources": index.sources, "config": config.identity(), "experts": entries, **files,
    }  # fmt: skip
    manifest["hash"] = set_hash(manifest)
    write_json(out_dir / MANIFEST, KIND, key, manifest)


def _plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in the default memory layout, so that equal weights are equal bytes."""
    return {name: value.contiguous(memory_format=torch.contiguous_format) for name, value in state.items()}
