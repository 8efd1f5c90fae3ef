"""The histogram: where the client's images lie among the clusters of the source, by nearest centroid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.selection.selectors.base import (
    SELECTORS,
    ClusterSelector,
    Features,
    Floats,
    Ints,
    Need,
)
from nds_plugin.selection.weights import available_weights
from nds_plugin.settings import setting
from nds_plugin.source.partition import Partition


@SELECTORS.register
@dataclass(frozen=True)
class Histogram(ClusterSelector):
    """w = z, the share of the client's images whose nearest centroid is that of the cluster.

    The client makes one forward pass an image and sends K numbers, as with the gate.
    """

    rest: float = setting(
        0.01,
        "probability that is spread over all images alike: a small one fills a budget beyond the clusters that "
        "hold client images",
        least=0,
        below=1,
    )

    name: ClassVar[str] = "histogram"
    label: ClassVar[str] = "Histogram"
    colour: ClassVar[str] = "#4a9aa5"
    needs: ClassVar[Need] = Need.CLUSTERS | Need.CENTROIDS | Need.FEATURES
    what: ClassVar[str] = "histogram"

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """See :class:`~nds_plugin.selection.selectors.base.ClusterSelector`."""
        shares = np.asarray(z, dtype=np.float64)
        return available_weights((1 - self.rest) * shares + self.rest * sizes / sizes.sum(), sizes)


def centroids(features: Features, partition: Partition) -> Floats:
    """Mean feature of each cluster's readable images, shape (K, D).

    Of k-means these are the centroids that it ended with. So a partition need not hold them, and clusters
    that were cut in another way, such as by class, have them, too.

    Args:
        features: of the partition's images, in its order.
        partition: the clusters.

    Raises:
        NDSError: a cluster of which no image could be read.
    """
    cluster = np.where(features.readable, partition.cluster, -1)
    counts = np.bincount(cluster[cluster >= 0], minlength=partition.num_clusters)
    if not counts.all():
        raise NDSError(
            f"histogram: no image of cluster {int(np.argmin(counts))} can be read: make the partition again."
        )
    means = [
        features.values[cluster == k].mean(axis=0, dtype=np.float64) for k in range(partition.num_clusters)
    ]
    return np.stack(means)


def nearest_logits(centres: Floats) -> tuple[Floats, Floats]:
    """Weights (K, D) and biases (K,) of a linear classifier whose largest logit is that of the nearest centre.

    ``-|x - c|^2 = 2 c x - |c|^2 - |x|^2``, of which the last term is the same for all centres.
    """
    return 2 * centres, -np.square(centres).sum(axis=1)


def one_hot(classes: npt.NDArray[np.int64], count: int) -> Floats:
    """Shape (n, count): 1 where a row's class is, else 0."""
    return np.asarray(classes[:, None] == np.arange(count), dtype=np.float64)
