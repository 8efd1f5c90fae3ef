"""Describing a source by experts of other sources: its provider runs this, and trains nothing."""

from __future__ import annotations

import logging

import numpy as np
import torch
from tqdm import tqdm

from nds_plugin.experts.description import Description
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import METRICS, differ_by_chance
from nds_plugin.experts.scoring import score_groups
from nds_plugin.experts.scoring_shards import ScoringShards
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.source.index import SourceIndex, take_rows
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")


def describe_source(
    experts: ExpertSet,
    index: SourceIndex,
    partition: Partition,
    config: ScoringConfig,
    device: torch.device = _CPU,
    *,
    progress: bool = True,
    shards: ScoringShards | None = None,
) -> Description:
    """Score all experts on the images of each cluster, as a client's images are scored.

    Args:
        experts: of any sources.
        index, partition: the source and its clusters; they must belong together.
        config: how; ``max_images`` is a draw of that many of each cluster.
        device, progress: to compute on, and whether a bar shows it, where there are no shards.
        shards: how the passes over all clusters are cut into shards and who does them.

    Raises:
        NDSError: what does not belong together, or a cluster of which no image can be read.
    """
    partition.check_matches(index)
    vectors: dict[str, list[list[float]]] = {}
    errors: dict[str, list[list[float]]] = {}
    images = []
    clusters = range(partition.num_clusters)
    groups = [SourceIndex(take_rows(index.table, partition.members(k)), index.classes) for k in clusters]
    found = score_groups(experts, groups, config, device, progress=False, shards=shards)
    bar = tqdm(clusters, desc="describing", unit="cluster", disable=None if progress else True)
    for cluster, scores in zip(bar, found):
        for metric in METRICS:
            if metric in scores.details:
                vectors.setdefault(metric, []).append(scores.details[metric]["z"])
                errors.setdefault(metric, []).append(scores.details[metric]["stderr"])
        images.append(scores.images)
        logger.info(
            "cluster %d: described by %d experts on %d images", cluster, len(scores.clusters), scores.images
        )
    if config.metric in vectors:
        _warn_if_alike(config, vectors[config.metric], errors[config.metric])
    return Description(experts.hash, experts.clusters, partition.hash, images, vectors)


def _warn_if_alike(config: ScoringConfig, vectors: list[list[float]], errors: list[list[float]]) -> None:
    """Say so where most experts tell the clusters hardly apart: similarities to them then follow chance."""
    noisy = int(np.sum(differ_by_chance(vectors, errors)))
    if 2 * noisy > len(vectors[0]):
        more = (
            "Describe more images of each (--max-images, NDS.SCORING.MAX_IMAGES), or take"
            if config.max_images
            else "Take"
        )
        logger.warning(
            "by %s, the numbers of %d of %d experts differ between the clusters hardly more than by their errors: the description "
            "tells the clusters hardly apart. %s experts of other sources, or fewer clusters.",
            config.metric, noisy, len(vectors[0]), more,
        )  # fmt: skip
