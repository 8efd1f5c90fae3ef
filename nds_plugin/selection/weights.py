"""The method: scores to weights of clusters to probabilities of images.

Pure functions, numpy in and out. Notation as in ``docs/method.md``: z_k is the transfer performance
of the expert of cluster S_k, w_k the weight of the cluster, T the temperature, p(x) = w_k / |S_k| the
sampling probability of an image x of cluster k.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name

Floats = npt.NDArray[np.float64]


Ints = npt.NDArray[np.int64]


NORMALISATIONS = ("minmax", "none")
TEMPERATURE, NORMALISATION = 0.1, "minmax"  # the paper's T; the scaling is our reading of it


def normalise_scores(z: npt.ArrayLike, normalisation: str = NORMALISATION) -> Floats:
    """Scale scores before the softmax.

    ``minmax`` maps them onto [0, 1] (equal scores all become 0); ``none`` keeps them. The paper
    states T = 0.1; that the scores are scaled by min-max first is our reading of it.

    Raises:
        NDSError: scores not finite, not one-dimensional or empty; unknown normalisation.
    """
    scores = np.asarray(z, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise NDSError(f"scores must be a non-empty list of numbers, got shape {scores.shape}.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise NDSError(f"score of cluster {bad} is {scores[bad]}: every score must be finite.")
    if normalisation == "none":
        return scores
    if normalisation == "minmax":
        spread = scores.max() - scores.min()
        return (scores - scores.min()) / spread if spread > 0 else np.zeros_like(scores)
    raise unknown_name("score normalisation", normalisation, NORMALISATIONS)


def cluster_weights(
    z: npt.ArrayLike, temperature: float = TEMPERATURE, normalisation: str = NORMALISATION
) -> Floats:
    """w = softmax(z / T) over clusters, shape (K,), sums to one.

    Raises:
        NDSError: temperature not a positive number, or bad scores.
    """
    check_softmax(temperature, normalisation)
    logits = normalise_scores(z, normalisation) / temperature
    exponent = np.exp(logits - logits.max())
    return np.asarray(exponent / exponent.sum())


def cluster_sizes(cluster: npt.NDArray[np.integer], num_clusters: int) -> Ints:
    """|S_k|: images per cluster, shape (K,). Negative cluster numbers are in no cluster."""
    sizes = np.zeros(num_clusters, dtype=np.int64)
    step = 1 << 20  # bincount widens to int64: bound the copy
    for start in range(0, len(cluster), step):
        part = cluster[start : start + step]
        sizes += np.bincount(part[part >= 0], minlength=num_clusters)
    return sizes


def available_weights(weights: Floats, sizes: Ints) -> Floats:
    """Weights over the clusters that hold an image, summing to one.

    Raises:
        NDSError: no weight is left, or the two disagree in length.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != sizes.shape:
        raise NDSError(f"{len(weights)} weights for {len(sizes)} clusters: they must match.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise NDSError("cluster weights must be finite and 0 or more.")
    kept = np.where(sizes > 0, weights, 0.0)
    if kept.sum() <= 0:
        raise NDSError("every cluster with a positive weight is empty: nothing can be drawn.")
    return np.asarray(kept / kept.sum())


def image_rates(weights: Floats, sizes: Ints) -> Floats:
    """w_k / |S_k|, the probability of one image of each cluster, shape (K,)."""
    kept = available_weights(weights, sizes)
    return np.divide(kept, sizes, out=np.zeros_like(kept), where=sizes > 0)


def image_probabilities(weights: Floats, cluster: npt.NDArray[np.integer]) -> Floats:
    """p(x) = sum_k w_k g_k(x) / |S_k|, shape (N,), sums to one; images of no cluster get 0."""
    rates = image_rates(weights, cluster_sizes(cluster, len(weights)))
    # Cluster -1 indexes the last element, the appended zero.
    return np.asarray(np.append(rates, 0.0)[cluster])


def effective_clusters(weights: Floats) -> float:
    """exp(H(w)): as many equally weighted clusters have the same entropy."""
    positive = np.asarray(weights)[np.asarray(weights) > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def effective_sample_size(weights: Floats, sizes: Ints) -> float:
    """1 / sum p(x)^2: as many equally likely images have the same collision probability."""
    rates = image_rates(weights, sizes)
    return float(1.0 / (sizes * rates**2).sum())


def normalise_probabilities(p: npt.ArrayLike, what: str = "the images' weights") -> Floats:
    """Weights of single images as probabilities that sum to one, shape (N,).

    Args:
        p: 0 or more each.
        what: what an error calls them.

    Raises:
        NDSError: not a list of numbers of 0 or more, one of which at least is above 0.
    """
    weights = np.asarray(p, dtype=np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any():
        raise NDSError(f"{what} must be a list of finite numbers of 0 or more.")
    if not weights.sum() > 0:
        raise NDSError(f"{what} are all 0: nothing can be drawn.")
    return np.asarray(weights / weights.sum())


def check_softmax(temperature: float, normalisation: str) -> None:
    """Refuse a temperature that is not a positive number, and an unknown normalisation."""
    if not temperature > 0 or not np.isfinite(temperature):
        raise NDSError(f"temperature must be a positive number, got {temperature}.")
    if normalisation not in NORMALISATIONS:
        raise unknown_name("score normalisation", normalisation, NORMALISATIONS)
