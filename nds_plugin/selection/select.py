"""Scores of clusters, or weights of images, into a :class:`~nds_plugin.selection.selection.Selection`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import GATE_METRIC, Scores
from nds_plugin.images.cost import Cost
from nds_plugin.selection.config import CLUSTER_SELECTORS, IMAGE_SELECTORS, SelectionConfig
from nds_plugin.selection.drawing import draw_by_probability, draw_subset, resolve_budget
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.selection import COLUMNS, Selection
from nds_plugin.selection.weights import available_weights, cluster_weights, image_rates
from nds_plugin.source.index import SourceIndex
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
    if image_weights is not None or config.selector in IMAGE_SELECTORS:
        return _select_images(index, partition, config, image_weights)
    if config.selector in CLUSTER_SELECTORS and scores and scores.partition not in ("", partition.hash):
        raise NDSError(
            f"the scores are of an expert set of another partition: expected {partition.hash[:12]}, got "
            f"{scores.partition[:12]}; score the experts that were trained on this partition."
        )
    sizes = partition.sizes
    weights = selector_weights(config, sizes, scores)
    rows = draw_rows(config, weights, sizes, partition.cluster)
    info = selection_info(config, sizes, scores, index.sources, (index.hash, partition.hash), len(rows))
    p = image_rates(weights, sizes)[partition.cluster[rows]]
    return Selection(_rows(index, partition, p, rows), config.mode, weights, info)


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
    if config.mode == "stream" or config.selector == "full":
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
            f"the {config.selector} selector needs weights of the source's images: weigh them first."
        )
    if image_weights.selector != config.selector:
        raise NDSError(
            f"the images were weighed by the selector {image_weights.selector}, not by {config.selector}: weigh "
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


def selection_info(
    config: SelectionConfig,
    sizes: npt.NDArray[np.int64],
    scores: Scores | None,
    sources: Sequence[str],
    hashes: tuple[str, str],
    images: int,
) -> dict[str, Any]:
    """How a selection came to be; what a selector has not is None.

    ``hashes`` are those of the index and of the partition.
    """
    by_scores = scores if config.selector in CLUSTER_SELECTORS else None
    return {
        "selector": config.selector,
        "sees_target": False,
        "by_image": False,
        "cost": dataclasses.asdict(by_scores.cost if by_scores else Cost()),
        "seed": config.seed,
        "budget": images,
        "temperature": config.temperature,
        "normalisation": config.normalisation,
        "gate_draw": config.gate_draw if config.selector == "gate" else None,
        "metric": by_scores.metric if by_scores else None,
        "z": [float(z) for z in by_scores.z] if by_scores else None,
        "sources": list(sources),
        "sizes": sizes.tolist(),
        "index": hashes[0],
        "partition": hashes[1],
        "expert_set": by_scores.expert_set if by_scores else None,
        "target_images": by_scores.images if by_scores else None,
        "details": {},
    }


def selector_weights(
    config: SelectionConfig, sizes: npt.NDArray[np.int64], scores: Scores | None
) -> npt.NDArray[np.float64]:
    """w over the clusters, shape (K,): of the client's scores, or in proportion to the clusters' sizes."""
    if config.selector not in CLUSTER_SELECTORS:
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)
    if scores is None:
        scorer = "the gate" if config.selector == "gate" else "the experts"
        raise NDSError(f"the {config.selector} selector needs the client's scores: score {scorer} first.")
    if (scores.metric == GATE_METRIC) != (config.selector == "gate"):
        raise NDSError(
            f"the {config.selector} selector cannot use scores of metric {scores.metric}: experts are scored by "
            "nds score, a gate by nds gate score."
        )
    if list(scores.clusters) != list(range(len(sizes))):
        raise NDSError(
            f"the scores are of clusters {list(scores.clusters)}, the partition has 0 to {len(sizes) - 1}: "
            "score the expert set that belongs to this partition."
        )
    if config.selector == "gate" and config.gate_draw == "plain":
        return available_weights(np.asarray(scores.z, dtype=np.float64), sizes)
    return available_weights(cluster_weights(scores.z, config.temperature, config.normalisation), sizes)


def _rows(
    index: SourceIndex, partition: Partition, p: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> pa.Table:
    """The table of a selection; ``p`` is that of the rows."""
    taken = index.table.take(pa.array(rows))
    columns = {name: taken.column(name) for name in ("source", "image_id", "url", "license", "checksum")}
    columns["cluster"] = pa.array(partition.cluster[rows].astype(np.int32))
    columns["p"] = pa.array(p)
    return pa.table({name: columns[name] for name in COLUMNS})
