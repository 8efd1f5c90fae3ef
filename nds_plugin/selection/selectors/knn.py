"""Nearest neighbours: images whose features are like the target's are drawn more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.selection.selectors.base import Evidence, Floats
from nds_plugin.selection.weights import check_softmax, cluster_weights

_BLOCK = 16_384  # source images compared at a time


@dataclass(frozen=True)
class NearestNeighbours:
    """p(x) = softmax(s(x) / T) over images, s(x) the mean similarity of x to the target's images.

    Similarity is the cosine of features from which the source's mean feature was taken: features
    after a ReLU all point one way, and their plain cosines hardly differ (our choice).

    Attributes:
        neighbours: mean over this many of the target's images, the most similar ones; 0 for all.
        temperature, normalisation: T, and the scaling of s before it, as for experts' scores.
    """

    neighbours: int = 0
    temperature: float = 0.1
    normalisation: str = "minmax"

    name: ClassVar[str] = "knn"
    needs_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.neighbours < 0:
            raise NDSError(f"knn neighbours must be 0 (all) or more, got {self.neighbours}.")
        check_softmax(self.temperature, self.normalisation)

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """See :class:`~nds_plugin.selection.selectors.base.ImageSelector`."""
        source, target = evidence.features()
        similarity = mean_similarity(source.usable, target.usable, self.neighbours)
        weights = np.zeros(len(source.readable))
        weights[source.readable] = cluster_weights(similarity, self.temperature, self.normalisation)
        facts = {"least_similarity": float(similarity.min()), "most_similarity": float(similarity.max())}
        return weights, facts


def mean_similarity(
    source: npt.NDArray[np.float32], target: npt.NDArray[np.float32], neighbours: int = 0
) -> Floats:
    """Mean cosine of each source image to its most similar target images, shape (N,).

    Args:
        source, target: features, shapes (N, D) and (n, D).
        neighbours: how many target images; 0, or more than there are, for all.
    """
    mean = source.mean(axis=0, dtype=np.float64)
    towards = _centred(target, mean)
    count = min(neighbours, len(target)) or len(target)
    parts = []
    for start in range(0, len(source), _BLOCK):
        cosine = _centred(source[start : start + _BLOCK], mean) @ towards.T
        nearest = cosine if count == len(target) else np.partition(cosine, -count, axis=1)[:, -count:]
        parts.append(nearest.mean(axis=1))
    return np.concatenate(parts)


def _centred(features: npt.NDArray[np.float32], mean: Floats) -> Floats:
    centred = features - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12))
