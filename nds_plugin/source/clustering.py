"""Clustering of points into numbered groups: numpy in, numpy out, the seed an argument.

scikit-learn does the k-means; it is imported inside the functions, so that reading a partition
needs neither it nor torch.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError

MINIBATCH_ABOVE = 200_000  # points; more go to mini-batch k-means. Our choice
RESTARTS = 4  # k-means++ starts, of which the tightest is kept. Our choice
_MINIBATCH_SIZE = 8192
_ASSIGN_ROWS = 65_536

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating]


def kmeans(points: Floats, num_clusters: int, seed: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Cut points into at most ``num_clusters`` groups.

    One thread does it: with several, the order of the sums, and with it now and then a point's
    cluster, would depend on the machine's number of cores.

    Args:
        points: shape (N, D), N at least ``num_clusters``.
        num_clusters: K.
        seed: of the k-means++ starts.

    Returns:
        Cluster of each point, shape (N,), and the centroids, shape (K, D). A cluster is left
        empty where the points hold fewer than K distinct ones.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if len(points) > MINIBATCH_ABOVE:
        model = MiniBatchKMeans(num_clusters, random_state=seed, n_init=RESTARTS, batch_size=_MINIBATCH_SIZE)
    else:
        model = KMeans(num_clusters, random_state=seed, n_init=RESTARTS)
    logger.info("k-means: %d points of %d numbers into %d clusters", *points.shape, num_clusters)
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters: the empty ones are dropped and noted by the caller.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit_predict(points)
    return labels.astype(np.int64), np.asarray(model.cluster_centers_)


def reduce_dimension(points: Floats, dimension: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Project points on their first principal components.

    Returns:
        The projections, shape (N, dimension), the points' mean, shape (D,), and the components, shape
        (dimension, D): another point x is projected to (x - mean) components^T.

    Raises:
        NDSError: ``dimension`` is larger than the points allow.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    if dimension > min(points.shape):
        raise NDSError(
            f"pca_dim is {dimension}, but {points.shape[0]} features of {points.shape[1]} numbers allow at "
            f"most {min(points.shape)}: lower pca_dim, or 0 for none."
        )
    with threadpool_limits(1):
        model = PCA(dimension, random_state=seed)
        return np.asarray(model.fit_transform(points)), model.mean_, model.components_


def superclass(
    points: Floats, labels: npt.NDArray[np.integer], num_clusters: int, seed: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """k-means over the mean point of each class; a point goes with its class.

    A point without a class goes to the nearest centroid.

    Args:
        points: shape (N, D).
        labels: class of each point, -1 for none, shape (N,).
        num_clusters: K.
        seed: of k-means.

    Returns:
        As :func:`kmeans`.

    Raises:
        NDSError: K is larger than the number of classes that occur.
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    rows_of_class = np.split(order, starts[1:])
    if len(present) and present[0] < 0:
        present, rows_of_class = present[1:], rows_of_class[1:]
    if num_clusters > len(present):
        raise NDSError(
            f"cannot cut {len(present)} classes (those with a readable image) into {num_clusters} "
            "superclasses: lower --num-clusters (NDS.PARTITION.NUM_CLUSTERS), or use the method kmeans."
        )
    means = np.stack([points[rows].mean(axis=0, dtype=np.float64) for rows in rows_of_class])
    of_class, centroids = kmeans(means, num_clusters, seed)
    cluster = np.empty(len(points), dtype=np.int64)
    for number, rows in zip(of_class, rows_of_class):
        cluster[rows] = number
    unlabelled = labels < 0
    cluster[unlabelled] = nearest(points[unlabelled], centroids)
    return cluster, centroids


def nearest(points: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    """Number of the centroid nearest to each point (the lowest of equals); shape (N,)."""
    from threadpoolctl import threadpool_limits

    offset = (centroids.astype(np.float64) ** 2).sum(axis=1)
    found = np.empty(len(points), dtype=np.int64)
    with threadpool_limits(1):
        for start in range(0, len(points), _ASSIGN_ROWS):
            block = points[start : start + _ASSIGN_ROWS].astype(np.float64)
            found[start : start + len(block)] = np.argmin(offset - 2 * block @ centroids.T, axis=1)
    return found


def distances(points: Floats, centroids: Floats, cluster: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Distance of each point to the centroid of its cluster; shape (N,)."""
    found = np.empty(len(points), dtype=np.float32)
    for start in range(0, len(points), _ASSIGN_ROWS):
        rows = slice(start, start + _ASSIGN_ROWS)
        difference = points[rows].astype(np.float64) - centroids[cluster[rows]]
        found[rows] = np.sqrt(np.square(difference).sum(axis=1))
    return found


def merge_small(
    sizes: npt.NDArray[np.int64], centroids: Floats, min_size: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Merge clusters below ``min_size`` images into the one with the nearest centroid.

    The smallest goes first; the receiving centroid becomes the mean of both, weighted by size.
    An empty cluster vanishes (it has no image to merge). One cluster always remains.

    Args:
        sizes: images of each cluster, shape (K,).
        centroids: shape (K, D).
        min_size: at least 1.

    Returns:
        The cluster that each cluster has become, shape (K,), and a note on each change.
    """
    sizes, centroids = sizes.copy(), centroids.astype(np.float64)
    target = np.arange(len(sizes))
    empty = int((sizes == 0).sum())
    notes = [f"{empty} of {len(sizes)} clusters were empty and are left out"] if empty else []
    while True:
        alive = np.flatnonzero(sizes > 0)
        small = alive[np.argmin(sizes[alive])]
        if sizes[small] >= min_size or len(alive) == 1:
            break
        others = alive[alive != small]
        into = others[np.argmin(((centroids[others] - centroids[small]) ** 2).sum(axis=1))]
        notes.append(
            f"a cluster of {sizes[small]} images (fewer than min_size {min_size}) is merged into its "
            f"nearest neighbour of {sizes[into]} images"
        )
        total = sizes[into] + sizes[small]
        centroids[into] = (sizes[into] * centroids[into] + sizes[small] * centroids[small]) / total
        sizes[into], sizes[small] = total, 0
        target[target == small] = into
    return target, notes


def number_by_size(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Renumber to 0..K-1 without a hole, the largest cluster first; -1 stays -1.

    Of two clusters of one size, the one whose first image comes earlier is numbered first.
    """
    inside = labels >= 0
    old, first, counts = np.unique(labels[inside], return_index=True, return_counts=True)
    lookup = np.empty(int(old.max(initial=-1)) + 1, dtype=np.int32)
    lookup[old[np.lexsort((first, -counts))]] = np.arange(len(old), dtype=np.int32)
    renumbered = np.full(len(labels), -1, dtype=np.int32)
    renumbered[inside] = lookup[labels[inside]]
    return renumbered
