"""Fast adaptation, on the client: how well does each expert do its proxy task on these images?

Each image is decoded once; all experts see the same crops. The forward passes always take
batches of one fixed size, the last one padded, so that the scores do not depend on the loader.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.supervised import cross_validate
from nds_plugin.experts.tasks import ROTATIONS, rotations
from nds_plugin.images.cost import Cost
from nds_plugin.images.crops import CenterCrops, crop_loader
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
SHARED = -1  # how this module calls the shared network among the clusters
_CPU = torch.device("cpu")
Images = Union[SourceIndex, Sequence[str], str, "os.PathLike[str]"]
Array = npt.NDArray[np.float64]


@dataclass
class _Pass:
    """What the forward passes over all images leave behind; rows are readable images.

    ``outputs`` holds per network an array (n, width): for the rotation task the share of right
    answers and the mean log-likelihood of each image, for the supervised task its features.
    """

    rows: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    outputs: dict[int, list[torch.Tensor]] = field(default_factory=dict)


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
    dtype = resolve_precision(config.precision, device)
    start = time.perf_counter()
    with torch.inference_mode(), repeatable():
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
    networks = len(experts.clusters) + experts.has_shared
    passes = len(result.rows) * networks * (ROTATIONS if experts.task == "rotation" else 1)
    cost = Cost(len(result.rows), passes, round(time.perf_counter() - start, 3))
    scores = Scores(
        experts.clusters, first["z"], first["stderr"], "accuracy", len(result.rows), experts.hash,
        experts.task, unreadable, details, experts.manifest["partition"], cost,
    )  # fmt: skip
    return scores.with_metric(config.metric)


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
) -> _Pass:
    names = [*experts.clusters, *[SHARED] * experts.has_shared]
    groups = _groups(names, config.resident_mb * MEGABYTE, dtype)
    micro = micro_batch(device)
    crop_bytes = 3 * experts.crop_size**2
    chunk = (
        micro if len(groups) == 1 else max(micro, config.crops_mb * MEGABYTE // crop_bytes // micro * micro)
    )
    result = _Pass(outputs={name: [] for name in names})
    resident: dict[int, InferenceNetwork] = {}
    with tqdm(
        total=len(paths) * len(names), desc="scoring", unit="pass", disable=None if progress else True
    ) as bar:
        for crops in _chunks(paths, experts.crop_size, config, device, chunk, result):
            for group in groups:
                if resident.keys() != set(group):
                    resident.clear()  # before loading, so that two groups are never held at once
                    resident.update({name: _network(experts, name, device, dtype) for name in group})
                for batch in crops.split(micro):
                    _forward_batch(batch, micro, resident, experts, device, result.outputs)
                    bar.update(len(batch) * len(group))
    return result


def micro_batch(device: torch.device) -> int:
    """Images per forward pass (the rotation task makes four inputs of each); our choice."""
    return 64 if device.type == "cuda" else 16


def _groups(names: list[int], limit: int, dtype: torch.dtype) -> list[list[int]]:
    size = 11_200_000 * torch.empty(0, dtype=dtype).element_size()  # weights of a ResNet-18
    count = max(1, limit // size)
    return [names[i : i + count] for i in range(0, len(names), count)]


def _network(experts: ExpertSet, name: int, device: torch.device, dtype: torch.dtype) -> InferenceNetwork:
    network = experts.load_shared() if name == SHARED else experts.load_model(name)
    return InferenceNetwork(network, dtype).to(device)


def _chunks(
    paths: list[str], size: int, config: ScoringConfig, device: torch.device, chunk: int, result: _Pass
) -> Iterator[torch.Tensor]:
    """Crops of the readable images, uint8 (chunk, S, S, 3), the last chunk shorter."""
    pending: list[torch.Tensor] = []
    held = 0
    for batch in crop_loader(CenterCrops(paths, size), config.batch_size, config.num_workers, device):
        result.rows += batch.rows.tolist()
        result.errors.update(batch.errors)
        if not len(batch.crops):
            continue
        pending.append(batch.crops)
        held += len(batch.crops)
        while held >= chunk:
            joined = torch.cat(pending)
            yield joined[:chunk]
            pending, held = [joined[chunk:]], held - chunk
    if held:
        yield torch.cat(pending)


def _forward_batch(
    crops: torch.Tensor,
    micro: int,
    networks: dict[int, InferenceNetwork],
    experts: ExpertSet,
    device: torch.device,
    outputs: dict[int, list[torch.Tensor]],
) -> None:
    real = len(crops)
    # Always the same shape: kernels may sum in another order for another batch size.
    padded = torch.zeros((micro, *crops.shape[1:]), dtype=torch.uint8, device=device)
    padded[:real] = crops.to(device, non_blocking=True)
    mean, std = tuple(experts.manifest["mean"]), tuple(experts.manifest["std"])
    if experts.task == "supervised":
        inputs = normalise(padded, mean, std)
        for name, network in networks.items():
            outputs[name].append(network.features(inputs)[:real])
        return
    inputs = normalise(rotations(padded), mean, std)
    targets = torch.arange(ROTATIONS, device=device).repeat(micro)
    for name, network in networks.items():
        logits = network(inputs)
        correct = (logits.argmax(dim=1) == targets).float()
        likelihood = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
        per_image = torch.stack([correct, likelihood], dim=1).view(micro, ROTATIONS, 2).mean(dim=1)
        outputs[name].append(per_image[:real])


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
