"""Nearest neighbours: images whose features are like the target's are drawn more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.selection.selectors.base import SELECTORS, Evidence, Floats, ImageSelector, Need, Softmax
from nds_plugin.settings import setting

_NUMBERS = 1 << 24  # of cosines or features, held at a time: 128 MB


@SELECTORS.register
@dataclass(frozen=True)
class NearestNeighbours(ImageSelector, Softmax):
    """p(x) = softmax(s(x) / T) over images, s(x) the mean similarity of x to the target's images.

    Similarity is the cosine of features from which the source's mean feature was taken: features
    after a ReLU all point one way, and their plain cosines hardly differ (our choice).
    """

    neighbours: int = setting(
        0, "mean similarity to this many of the target's images, the most similar; 0: all", least=0
    )

    name: ClassVar[str] = "knn"
    label: ClassVar[str] = "Nearest neighbours"
    colour: ClassVar[str] = "#8a5aa8"
    needs: ClassVar[Need] = Need.FEATURES | Need.TARGET
    sees_target: ClassVar[bool] = True
    what: ClassVar[str] = "knn"

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """See :class:`~nds_plugin.selection.selectors.base.ImageSelector`."""
        source, target = evidence.features()
        similarity = mean_similarity(source.usable, target.usable, self.neighbours)
        weights = np.zeros(len(source.readable))
        weights[source.readable] = self.softmax(similarity)
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
    if count == len(target):  # the mean of the products is the product with the mean
        towards = towards.mean(axis=0, keepdims=True)
        count = 1
    block = max(1, _NUMBERS // max(towards.shape))
    parts = []
    for start in range(0, len(source), block):
        cosine = _centred(source[start : start + block], mean) @ towards.T
        nearest = cosine if count == len(towards) else np.partition(cosine, -count, axis=1)[:, -count:]
        parts.append(nearest.mean(axis=1))
    return np.concatenate(parts)


def _centred(features: npt.NDArray[np.float32], mean: Floats) -> Floats:
    centred = features - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12))
