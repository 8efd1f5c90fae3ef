"""A search: a client's scores in, a selection out. Pure functions of a published set and a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.experts.scores import SIMILARITY_METRIC
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.counter_rng import Purpose, random_words, stream_key
from nds_plugin.selection.drawing import expected_draws, resolve_budget
from nds_plugin.selection.select import Scored, draw_rows, needs_scores, selection_info
from nds_plugin.selection.selectors import ClusterSelector
from nds_plugin.selection.selectors.base import Softmax
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.snds import ScalableNDS, similarities
from nds_plugin.selection.weights import (
    Floats,
    Ints,
    effective_clusters,
    effective_sample_size,
    image_rates,
    normalise_scores,
)
from nds_plugin.service.published.store import PublishedSet

TOP_CLUSTERS, PER_CLUSTER = 8, 9  # the paper's Figures 2-4


@dataclass(frozen=True)
class Query:
    """What is asked of a set.

    Attributes:
        config: selector, budget, temperature, normalisation, seed; mode ``subset``.
        z: the scores of clusters 0 to K-1, or None where the selector needs none.
        sources: names of the sources to choose from.
        metric: of z; empty without.
    """

    config: SelectionConfig
    z: tuple[float, ...] | None
    sources: tuple[str, ...]
    metric: str = ""


def make_query(
    published: PublishedSet,
    config: SelectionConfig,
    clusters: Sequence[int] | None,
    z: Sequence[float] | None,
    sources: Sequence[str] | None,
    metric: str,
) -> Query:
    """A query that fits a set.

    Where the experts only describe the clusters, z becomes the similarities of these, and the selector nds, which
    a client names for its scores, becomes snds.

    Args:
        clusters, z: the scores and whose they are; both None without scores.
        sources: names, or None for all.
        metric: of the scores; without any it is not looked at.

    Raises:
        NDSError: an unknown source or none, scores of other clusters than 0 to K-1, or of a metric by which the
            clusters are not described.
    """
    known = published.source_names
    for name in sources or ():
        if name not in known:
            raise unknown_name("source", name[:100], known)
    if sources is not None and not sources:
        raise NDSError("no source is chosen: name at least one, or leave sources out for all of them.")
    if z is not None and list(clusters or ()) != list(range(published.num_experts)):
        raise NDSError(
            f"expected the scores of exactly the clusters 0 to {published.num_experts - 1} in this order, got "
            f"{len(clusters or ())} clusters: score the experts of the set {published.id}."
        )
    if z is not None and len(z) != published.num_experts:
        raise NDSError(f"expected {published.num_experts} scores, one of each cluster, got {len(z)}.")
    if z is None and needs_scores(config.selector):
        raise NDSError(
            f"the selector {config.selector.name} needs scores; score the experts first, or use the selector uniform."
        )
    chosen = known if sources is None else [name for name in known if name in set(sources)]
    if published.description and z is not None and isinstance(config.selector, NDS):
        selector = ScalableNDS(config.selector.temperature, config.selector.normalisation)
        z = similarities(z, published.description.of_metric(metric), selector.similarity).tolist()
        config, metric = dataclasses.replace(config, selector=selector), SIMILARITY_METRIC
    return Query(config, None if z is None else tuple(float(value) for value in z), tuple(chosen), metric)


def _weights(published: PublishedSet, query: Query) -> tuple[Floats, Ints]:
    sizes = published.sizes_in(query.sources)
    z = None if query.z is None else np.asarray(query.z)
    return _selector(query.config).cluster_weights(z, sizes), sizes


def _selector(config: SelectionConfig) -> ClusterSelector:
    assert isinstance(config.selector, ClusterSelector)  # requests name no other
    return config.selector


def _scored(published: PublishedSet, query: Query) -> Scored | None:
    return None if query.z is None else Scored(query.z, query.metric, published.expert_hash)


def preview(published: PublishedSet, query: Query) -> dict[str, Any]:
    """What a query would give, in expectation; without a draw, so that it costs next to nothing.

    Raises:
        NDSError: no budget, or one larger than what can be drawn.
    """
    config = query.config
    weights, sizes = _weights(published, query)
    drawable = int(sizes[weights > 0].sum())
    budget = resolve_budget(drawable, config.count, config.share, whole=int(sizes.sum()))
    draws = expected_draws(weights, sizes, budget)
    inclusion = np.divide(draws, sizes, out=np.zeros_like(draws), where=sizes > 0)
    z = None if query.z is None else list(query.z)
    scaled = None
    if z is not None and isinstance(config.selector, Softmax):
        scaled = normalise_scores(z, config.selector.normalisation).tolist()
    by_source = {
        name: float(published.counts[published.source_names.index(name)] @ inclusion / budget)
        for name in query.sources
    }
    return {
        "budget": budget,
        "drawable": drawable,
        "z": z,
        "z_scaled": scaled,
        "w": weights.tolist(),
        "cluster_images": sizes.tolist(),
        "expected_share_by_cluster": (draws / budget).tolist(),
        "expected_share_by_source": by_source,
        "effective_clusters": effective_clusters(weights),
        "effective_sample_size": effective_sample_size(weights, sizes),
    }


@dataclass(frozen=True)
class Drawn:
    """The images of a search: rows of a set and the probabilities they were drawn by.

    Attributes:
        rows: rows of the index, ascending, int32, shape (budget,).
        rates: p of an image of each cluster, shape (K,).
        weights: w over the clusters, shape (K,).
        info: as in a selection artefact.
    """

    rows: npt.NDArray[np.int32]
    rates: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    info: dict[str, Any]


def draw(published: PublishedSet, query: Query) -> Drawn:
    """Draw; equal arguments give the equal draw, whenever and wherever it is made.

    With all sources chosen it is the draw of :func:`nds_plugin.selection.select.select`.

    Raises:
        NDSError: no budget, or one larger than what can be drawn.
    """
    weights, sizes = _weights(published, query)
    rows = draw_rows(query.config, weights, sizes, published.cluster_in(query.sources))
    hashes = (str(published.info["index"]), str(published.info["partition"]))
    info = selection_info(query.config, sizes, _scored(published, query), query.sources, hashes, len(rows))
    return Drawn(rows.astype(np.int32), image_rates(weights, sizes), weights, info)


def shares(published: PublishedSet, query: Query, drawn: Drawn) -> dict[str, Any]:
    """How many images were drawn, and their shares by source and by cluster."""
    total = len(drawn.rows)
    by_source = np.bincount(published.source[drawn.rows], minlength=len(published.source_names)) / total
    by_cluster = np.bincount(published.cluster[drawn.rows], minlength=published.num_clusters) / total
    names = published.source_names
    return {
        "images": total,
        "share_by_source": {name: float(by_source[names.index(name)]) for name in query.sources},
        "share_by_cluster": by_cluster.tolist(),
    }


def mosaic_rows(published: PublishedSet, query: Query) -> list[tuple[int, list[int]]]:
    """Nine random images of each of the eight heaviest clusters, as (cluster, rows of the index)."""
    weights, sizes = _weights(published, query)
    cluster = published.cluster_in(query.sources)
    found = []
    for k in np.argsort(-weights, kind="stable")[:TOP_CLUSTERS].tolist():
        if sizes[k] == 0:
            continue
        members = np.flatnonzero(cluster == k)
        words = random_words(stream_key(query.config.seed, Purpose.MOSAIC, k), 0, len(members))
        first = np.argsort(words, kind="stable")[:PER_CLUSTER]
        found.append((k, members[np.sort(first)].tolist()))
    return found
