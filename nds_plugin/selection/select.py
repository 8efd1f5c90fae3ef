"""Scores of clusters, or weights of images, into a :class:`~nds_plugin.selection.selection.Selection`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import GATE_METRIC, METRICS, SHARE_METRIC, SIMILARITY_METRIC, Scores
from nds_plugin.images.cost import Cost
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.drawing import draw_by_probability, draw_subset, resolve_budget
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.selection import COLUMNS, Selection
from nds_plugin.selection.selectors import ClusterSelector, ImageSelector, Need, Selector
from nds_plugin.selection.weights import image_rates
from nds_plugin.source.index import SourceIndex, take_rows
from nds_plugin.source.partition import Partition


def select(
    index: SourceIndex,
    partition: Partition,
    config: SelectionConfig,
    scores: Scores | None = None,
    image_weights: ImageWeights | None = None,
) -> Selection:
    """Select images of a partitioned source.

    Args:
        index, partition: the source and its clusters; they must belong together.
        config: selector, mode, budget, temperature, seed.
        scores: the client's scores; needed by cluster selectors that get no ``image_weights``.
        image_weights: probabilities of the single images, which the draw then follows; needed by image
            selectors. The partition says by which groups the draw is told, such as
            :meth:`~nds_plugin.source.partition.Partition.by_source`.

    Raises:
        NDSError: what does not fit together, or a bad budget, temperature or score.
    """
    partition.check_matches(index)
    if image_weights is not None or by_image(config.selector):
        return _select_images(index, partition, config, image_weights)
    check_scored(config.selector, scores, partition.hash)
    sizes = partition.sizes
    weights = selector_weights(config.selector, sizes, scores)
    rows = draw_rows(config, weights, sizes, partition.cluster)
    info = selection_info(
        config, sizes, Scored.of(scores), index.sources, (index.hash, partition.hash), len(rows)
    )
    p = image_rates(weights, sizes)[partition.cluster[rows]]
    return Selection(_rows(index, partition, p, rows), config.mode, weights, info)


def check_scored(selector: Selector | type[Selector], scores: Scores | None, partition_hash: str) -> None:
    """Refuse scores of experts of another partition."""
    if needs_scores(selector) and scores and scores.partition not in ("", partition_hash):
        what, do = "scores are of an expert set", "score the experts that were trained on this partition"
        if scores.metric == SIMILARITY_METRIC:
            what, do = "description is", "describe this partition"
        raise NDSError(
            f"the {what} of another partition: expected {partition_hash[:12]}, got {scores.partition[:12]}; {do}."
        )


def draw_rows(
    config: SelectionConfig,
    weights: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    cluster: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """Rows of the index that are selected by clusters, ascending.

    Args:
        config: selector, mode, budget and seed.
        weights, sizes: of the clusters, shape (K,).
        cluster: of every image, shape (N,); -1 is never selected.

    Raises:
        NDSError: no budget, or one larger than what can be drawn.
    """
    if not config.needs_budget:
        # In a stream those of weight 0, too: a later scoring may give their cluster one.
        return np.flatnonzero(cluster >= 0)
    drawable = int(sizes[weights > 0].sum())
    budget = resolve_budget(drawable, config.count, config.share, whole=int(sizes.sum()))
    return draw_subset(weights, cluster, budget, config.seed)


def _select_images(
    index: SourceIndex, partition: Partition, config: SelectionConfig, image_weights: ImageWeights | None
) -> Selection:
    if image_weights is None:
        raise NDSError(
            f"the {config.selector.name} selector needs weights of the source's images: weigh them by nds weigh, and give the file "
            "by --image-weights."
        )
    if image_weights.selector != config.selector.name:
        raise NDSError(
            f"the images were weighed by the selector {image_weights.selector}, not by {config.selector.name}: weigh "
            "them again, or name that selector."
        )
    image_weights.check_matches(index)
    p = np.where(partition.cluster >= 0, image_weights.p, 0.0)
    drawable = np.flatnonzero(p > 0)
    rows = drawable
    if config.mode == "subset":
        whole = int(partition.sizes.sum())
        wanted = resolve_budget(len(drawable), config.count, config.share, whole)
        rows = draw_by_probability(p, wanted, config.seed)
    weights = np.bincount(partition.cluster[drawable], weights=p[drawable], minlength=partition.num_clusters)
    hashes = (index.hash, partition.hash)
    info = selection_info(config, partition.sizes, None, index.sources, hashes, len(rows))
    info["cost"] = dataclasses.asdict(image_weights.cost)
    info["by_image"], info["sees_target"] = True, image_weights.sees_target
    info["target_images"] = image_weights.cost.images or None
    info["details"] = image_weights.details
    info["effective_sample_size"] = float(1.0 / np.square(p / p.sum()).sum())
    return Selection(_rows(index, partition, p[rows], rows), config.mode, weights / weights.sum(), info)


@dataclass(frozen=True)
class Scored:
    """What a selection's record keeps of a client's scores.

    Attributes:
        z: of clusters 0 to K-1.
        metric, expert_set, images, cost: see :class:`~nds_plugin.experts.scores.Scores`.
    """

    z: Sequence[float]
    metric: str
    expert_set: str
    images: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)

    @classmethod
    def of(cls, scores: Scores | None) -> Scored | None:
        """That of scores, where there are some."""
        if scores is None:
            return None
        return cls(scores.z, scores.metric, scores.expert_set, scores.images, scores.cost)


def selection_info(
    config: SelectionConfig,
    sizes: npt.NDArray[np.int64],
    scored: Scored | None,
    sources: Sequence[str],
    hashes: tuple[str, str],
    images: int,
) -> dict[str, Any]:
    """How a selection came to be; what a selector has not is None.

    ``hashes`` are those of the index and of the partition.
    """
    scored = scored if needs_scores(config.selector) else None
    settings = config.selector_settings()
    return {
        "selector": config.selector.name,
        "sees_target": False,
        "by_image": False,
        "cost": dataclasses.asdict(scored.cost if scored else Cost()),
        "seed": config.seed,
        "budget": images,
        "temperature": settings.get("temperature"),
        "normalisation": settings.get("normalisation"),
        "gate_draw": settings.get("gate_draw"),
        "metric": scored.metric if scored else None,
        "z": [float(z) for z in scored.z] if scored else None,
        "sources": list(sources),
        "sizes": sizes.tolist(),
        "index": hashes[0],
        "partition": hashes[1],
        "expert_set": scored.expert_set if scored else None,
        "target_images": scored.images if scored else None,
        "details": {},
    }


def by_image(selector: Selector | type[Selector]) -> bool:
    """Whether a selector weighs single images."""
    return issubclass(selector if isinstance(selector, type) else type(selector), ImageSelector)


def needs_scores(selector: Selector | type[Selector]) -> bool:
    """Whether a selector weighs by the K numbers that a client sends."""
    return bool(selector.needs & (Need.EXPERTS | Need.GATE | Need.CENTROIDS | Need.DESCRIPTION))


def selector_weights(
    selector: Selector | type[Selector], sizes: npt.NDArray[np.int64], scores: Scores | None
) -> npt.NDArray[np.float64]:
    """w over the clusters, shape (K,), by a selector of clusters.

    Raises:
        NDSError: a selector of images; no scores, or those of other clusters or of another scorer.
    """
    if not isinstance(selector, ClusterSelector):
        raise NDSError(f"the {selector.name} selector weighs images, not clusters: weigh them first.")
    if not needs_scores(selector):
        return selector.cluster_weights(None, sizes)
    (scorer, expected), metrics = _scorer(selector)
    if scores is None:
        raise NDSError(
            f"the {selector.name} selector needs the client's scores: score {scorer} first, and give the file by --scores."
        )
    if scores.metric not in metrics:
        raise NDSError(
            f"the {selector.name} selector needs scores of {expected}, these are of metric {scores.metric}."
        )
    if list(scores.clusters) != list(range(len(sizes))):
        raise NDSError(
            f"the scores are of clusters {list(scores.clusters)}, the partition has 0 to {len(sizes) - 1}: "
            "score the expert set that belongs to this partition."
        )
    return selector.cluster_weights(np.asarray(scores.z, dtype=np.float64), sizes)


def _scorer(selector: Selector | type[Selector]) -> tuple[tuple[str, str], tuple[str, ...]]:
    """What a selector's numbers come from, in words, and their metrics."""
    if Need.GATE in selector.needs:
        return ("the gate", "a gate"), (GATE_METRIC,)
    if Need.CENTROIDS in selector.needs:
        return ("the centroids", "centroids"), (SHARE_METRIC,)
    if Need.DESCRIPTION in selector.needs:
        return ("the experts that describe the source", "a described source"), (SIMILARITY_METRIC,)
    return ("the experts", "experts"), METRICS


def _rows(
    index: SourceIndex, partition: Partition, p: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> pa.Table:
    """The table of a selection; ``p`` is that of the rows."""
    taken = take_rows(index.table, rows)
    columns = {name: taken.column(name) for name in ("source", "image_id", "url", "license", "checksum")}
    columns["cluster"] = pa.array(partition.cluster[rows].astype(np.int32))
    columns["p"] = pa.array(p)
    return pa.table({name: columns[name] for name in COLUMNS})
