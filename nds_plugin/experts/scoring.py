"""Fast adaptation, on the client: how well does each expert do its proxy task on these images?

All experts see the same crops. Heads share one backbone: four forward passes an image, whatever their number.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Union

import numpy as np
import numpy.typing as npt
import torch

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.forward import Forward
from nds_plugin.experts.manifest import HEAD, ROTATIONS
from nds_plugin.experts.passes import SHARED, Pass
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring_shards import ScoringShards, forward_in_shards
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.supervised import cross_validate
from nds_plugin.images.cost import Cost
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import NO_LABEL, SourceIndex, drawn_rows

logger = logging.getLogger(__name__)

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
    shards: ScoringShards | None = None,
) -> Scores:
    """Score all experts of a set, and the shared network, on a client's images.

    Args:
        experts: the experts.
        images: a folder, a list of files, or an index; the supervised task needs one with labels.
        config: how; by default ``ScoringConfig()``.
        device, progress: to compute on, and whether a bar shows it, where there are no shards.
        shards: how the forward passes are cut into shards and who does them; by default all in this process.

    Raises:
        NDSError: no images, none that can be read, an expert file that is not in order, or no
            labels where the task needs them.
    """
    return next(score_groups(experts, [images], config, device, progress=progress, shards=shards))


def score_groups(
    experts: ExpertSet,
    groups: Sequence[Images],
    config: ScoringConfig | None = None,
    device: torch.device = _CPU,
    *,
    progress: bool = True,
    shards: ScoringShards | None = None,
) -> Iterator[Scores]:
    """The same for several groups of images, each with scores of its own; with shards, in one pass over all."""
    config = config or ScoringConfig()
    found = [_client_images(images, experts.task, config) for images in groups]
    start = time.perf_counter()
    if shards is not None:
        forward = Forward(experts.directory, config, shards.executor.device)
        passes = forward_in_shards(forward, experts.hash, [paths for paths, _ in found], shards)
    else:
        forward = Forward(experts.directory, config, str(device))
        passes = (forward.run(paths, experts=experts, progress=progress) for paths, _ in found)
    for (paths, labels), result in zip(found, passes):
        yield _scores(experts, config, forward, paths, labels, result, start)


def _scores(
    experts: ExpertSet,
    config: ScoringConfig,
    forward: Forward,
    paths: list[str],
    labels: npt.NDArray[np.int64],
    result: Pass,
    start: float,
) -> Scores:
    """The scores of what the forward passes over a group of images have left."""
    is_head = experts.kind == HEAD
    unreadable = _report_unreadable(result.errors, paths)
    kept = labels[np.asarray(result.rows)]

    def answers(parts: list[torch.Tensor]) -> Array:
        found = torch.cat(parts).double().cpu().numpy()
        return (
            cross_validate(found, kept, config.folds, config.seed) if experts.task == "supervised" else found
        )

    details = _details({k: answers(parts) for k, parts in result.outputs.items()}, experts.clusters)
    details["computed"] = {
        "precision": result.precision, "device": torch.device(forward.device).type,
        "crop_size": experts.crop_size, "max_images": config.max_images, "seed": config.seed,
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
