"""Fast adaptation, on the client: how well does each expert do its proxy task on these images?

Each image is decoded once; all experts see the same crops. The forward passes always take
batches of one fixed size, the last one padded, so that the scores do not depend on the loader.
Heads share one backbone: four forward passes an image, whatever their number.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.head_scoring import forward_heads
from nds_plugin.experts.manifest import HEAD
from nds_plugin.experts.passes import SHARED, Pass, Reading, chunks, micro_batch, padded, right_answers
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.supervised import cross_validate
from nds_plugin.experts.tasks import ROTATIONS, rotations
from nds_plugin.images.cost import Cost
from nds_plugin.images.networks import (
    InferenceNetwork,
    normalise,
    precision_name,
    repeatable,
    resolve_precision,
)
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import NO_LABEL, SourceIndex, drawn_rows

logger = logging.getLogger(__name__)

MEGABYTE = 1 << 20
_CPU = torch.device("cpu")
Images = Union[SourceIndex, Sequence[str], str, "os.PathLike[str]"]
Array = npt.NDArray[np.float64]


def score_experts(
    experts: ExpertSet,
    images: Images,
    config: ScoringConfig | None = None,
    device: torch.device = _CPU,
    *,
    progress: bool = True,
) -> Scores:
    """Score all experts of a set, and the shared network, on a client's images.

    Args:
        experts: the experts.
        images: a folder, a list of files, or an index; the supervised task needs one with labels.
        config: how; by default ``ScoringConfig()``.
        device: to compute on.
        progress: show a progress bar if on a terminal.

    Raises:
        NDSError: no images, none that can be read, an expert file that is not in order, or no
            labels where the task needs them.
    """
    config = config or ScoringConfig()
    paths, labels = _client_images(images, experts.task, config)
    is_head = experts.kind == HEAD
    dtype = head_precision(config, device) if is_head else resolve_precision(config.precision, device)
    start = time.perf_counter()
    with torch.inference_mode(), repeatable():
        if is_head:
            how = (config.batch_size, config.num_workers)
            result = forward_heads(experts, paths, how, device, dtype, progress=progress)
        else:
            result = _forward_all(experts, paths, config, device, dtype, progress)
    unreadable = _report_unreadable(result.errors, paths)
    values = {k: torch.cat(parts).double().cpu().numpy() for k, parts in result.outputs.items()}
    if experts.task == "supervised":
        kept = labels[np.asarray(result.rows)]
        values = {k: cross_validate(x, kept, config.folds, config.seed) for k, x in values.items()}
    details = _details(values, experts.clusters)
    details["computed"] = {
        "precision": precision_name(dtype), "device": device.type, "crop_size": experts.crop_size,
        "max_images": config.max_images, "seed": config.seed,
    }  # fmt: skip
    first = details["accuracy"]
    networks = 1 if is_head else len(experts.clusters) + experts.has_shared
    passes = len(result.rows) * networks * (ROTATIONS if experts.task == "rotation" else 1)
    cost = Cost(len(result.rows), passes, round(time.perf_counter() - start, 3))
    scores = Scores(
        experts.clusters, first["z"], first["stderr"], "accuracy", len(result.rows), experts.hash,
        experts.task, unreadable, details, experts.manifest["partition"], cost,
    )  # fmt: skip
    return scores.with_metric(config.metric)


def head_precision(config: ScoringConfig, device: torch.device) -> torch.dtype:
    """The number format of the backbone under heads: float32, in which they were fitted, unless asked for."""
    return resolve_precision("fp32" if config.precision == "auto" else config.precision, device)


def _client_images(
    images: Images, task: str, config: ScoringConfig
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Paths and labels, shape (n,), of the images to score."""
    if isinstance(images, SourceIndex):
        paths, labels = images.column("file_name").tolist(), images.column("label").astype(np.int64)
    else:
        is_folder = isinstance(images, (str, os.PathLike))
        paths = list_images(images) if is_folder else [os.fspath(p) for p in images]  # type: ignore
        labels = np.full(len(paths), NO_LABEL, dtype=np.int64)
    if task == "supervised":
        labelled = np.flatnonzero(labels != NO_LABEL)
        if not len(labelled):
            raise NDSError(
                "task-supervised experts are scored on labelled images and the target has no labels: give a "
                "dataset with annotations (a COCO json) or use experts of task 'rotation'."
            )
        paths, labels = [paths[i] for i in labelled], labels[labelled]
    if not paths:
        raise NDSError("the target has no images: nothing to score the experts on.")
    chosen = drawn_rows(len(paths), config.max_images, config.seed)
    return [paths[i] for i in chosen], labels[chosen]


def _forward_all(
    experts: ExpertSet,
    paths: list[str],
    config: ScoringConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: bool,
) -> Pass:
    names = [*experts.clusters, *[SHARED] * experts.has_shared]
    groups = _groups(names, config.resident_mb * MEGABYTE, dtype)
    micro = micro_batch(device)
    crop_bytes = 3 * experts.crop_size**2
    chunk = (
        micro if len(groups) == 1 else max(micro, config.crops_mb * MEGABYTE // crop_bytes // micro * micro)
    )
    result = Pass(outputs={name: [] for name in names})
    resident: dict[int, InferenceNetwork] = {}
    with tqdm(
        total=len(paths) * len(names), desc="scoring", unit="pass", disable=None if progress else True
    ) as bar:
        reading = Reading(paths, experts.crop_size, "bilinear", config.batch_size, config.num_workers)
        for crops in chunks(reading, device, chunk, result):
            for group in groups:
                if resident.keys() != set(group):
                    resident.clear()  # before loading, so that two groups are never held at once
                    resident.update({name: _network(experts, name, device, dtype) for name in group})
                for batch in crops.split(micro):
                    _forward_batch(batch, micro, resident, experts, device, result.outputs)
                    bar.update(len(batch) * len(group))
    return result


def _groups(names: list[int], limit: int, dtype: torch.dtype) -> list[list[int]]:
    size = 11_200_000 * torch.empty(0, dtype=dtype).element_size()  # weights of a ResNet-18
    count = max(1, limit // size)
    return [names[i : i + count] for i in range(0, len(names), count)]


def _network(experts: ExpertSet, name: int, device: torch.device, dtype: torch.dtype) -> InferenceNetwork:
    network = experts.load_shared() if name == SHARED else experts.load_model(name)
    return InferenceNetwork(network, dtype).to(device)


def _forward_batch(
    crops: torch.Tensor,
    micro: int,
    networks: dict[int, InferenceNetwork],
    experts: ExpertSet,
    device: torch.device,
    outputs: dict[int, list[torch.Tensor]],
) -> None:
    real, batch = len(crops), padded(crops, micro, device)
    mean, std = tuple(experts.manifest["mean"]), tuple(experts.manifest["std"])
    if experts.task == "supervised":
        inputs = normalise(batch, mean, std)
        for name, network in networks.items():
            outputs[name].append(network.features(inputs)[:real])
        return
    inputs = normalise(rotations(batch), mean, std)
    for name, network in networks.items():
        outputs[name].append(right_answers(network(inputs), ROTATIONS)[:real])


def _report_unreadable(errors: dict[int, str], paths: list[str]) -> int:
    if len(errors) == len(paths):
        first = errors[min(errors)]
        raise NDSError(f"none of the target's {len(paths)} images can be read; first: {first}")
    if errors:
        logger.warning("left out %d of %d images that cannot be read:", len(errors), len(paths))
        for row in sorted(errors):
            logger.warning("  %s", errors[row])
    return len(errors)


def _details(values: dict[int, Array], clusters: list[int]) -> dict[str, Any]:
    """Metrics of arrays (n, 2) of each image's accuracy and log-likelihood per network."""
    details: dict[str, Any] = {}
    for column, name in enumerate(("accuracy", "log_likelihood")):
        table = np.stack([values[k][:, column] for k in clusters])
        details[name] = _mean_and_stderr(table)
        if SHARED in values:
            shared = values[SHARED][:, column]
            # The difference is taken image by image: its error is smaller than that of two means.
            details[f"relative_{name}"] = _mean_and_stderr(table - shared)
            single = _mean_and_stderr(shared[None])
            details.setdefault("shared", {})[name] = {k: v[0] for k, v in single.items()}
    return details


def _mean_and_stderr(table: Array) -> dict[str, list[float]]:
    """Mean over images and its standard error (0 for a single image) of each row of (K, n)."""
    n = table.shape[1]
    stderr = table.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(table))
    return {"z": table.mean(axis=1).tolist(), "stderr": stderr.tolist()}
