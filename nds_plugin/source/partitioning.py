"""Cutting a source into clusters by the features of its images; needs scikit-learn, not torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash
from nds_plugin.images.named_network import NAMES, NamedNetwork
from nds_plugin.settings import setting
from nds_plugin.source import clustering
from nds_plugin.source.centroids import Centroids
from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.source.partition import KIND, NO_CLUSTER, Partition

METHODS = ("kmeans", "superclass")
UNREADABLE_OF_SOURCE = 0.1  # share of a source's images that may be unreadable; our choice

_SAMPLE = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartitionConfig(NamedNetwork):
    """By which features a source is cut, and how."""

    what: ClassVar[str] = "partition"

    network: str = setting(
        "",
        f"of the features: {NAMES}; where neither network nor weights are given, that of head experts, else the "
        "shared rotation network",
        decides=False,
    )
    method: str = setting(
        "kmeans",
        "kmeans on the images' features (the paper's unsupervised partition), or superclass: kmeans on each "
        "class's mean feature, an image going with its label",
        choices=METHODS,
    )
    num_clusters: int = setting(50, "number of clusters K; fewer if some come out empty or tiny", least=1)
    seed: int = setting(0, "seed of k-means", least=0, most=2**32 - 1)
    min_size: int = setting(
        1, "clusters of fewer images are merged into the nearest; 1 drops only empty ones", least=1
    )
    pca_dim: int = setting(
        0,
        "reduce the features to so many principal components first; 0: do not",
        least=0,
        config="",
    )
    # Of a source that is no larger than the sample, they decide nothing; else see partition_key.
    sample_per_cluster: int = setting(
        2000,
        "images per cluster in the random sample that the centroids are computed from; every image then goes to "
        "the nearest",
        least=1,
        decides=False,
    )
    sample_least: int = setting(
        200_000,
        "least images of that sample in all; a smaller source is taken whole",
        least=1,
        decides=False,
    )

    keep_features: bool = setting(
        False,
        "keep the features of all images, as float16, beside their clusters (part-*.parquet)",
        decides=False,
    )

    @property
    def hash(self) -> str:
        """Hash of all settings; part of the key of what is made with them."""
        return content_hash(self.identity())


def sample_size(images: int, config: PartitionConfig) -> int:
    """Images whose features the centroids are fitted on; of a small source, all."""
    return min(images, max(config.sample_least, config.sample_per_cluster * config.num_clusters))


def sample_rows(images: int, config: PartitionConfig) -> npt.NDArray[np.int64]:
    """Rows of the index that the centroids are fitted on, ascending: a seeded draw."""
    count = sample_size(images, config)
    if count == images:
        return np.arange(images)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([config.seed, _SAMPLE])))
    return np.sort(rng.choice(images, count, replace=False))


def partition_by_features(
    index: SourceIndex,
    features: npt.NDArray[np.floating],
    readable: npt.NDArray[np.bool_],
    config: PartitionConfig,
) -> Partition:
    """Cut a source by the features of all its images, in memory; a pure function of its arguments.

    Clusters are numbered by size, the largest first (our choice), so that the numbering is
    stable. Images that cannot be read get cluster -1.

    Args:
        index: N images.
        features: shape (N, D), L2-normalised; rows of unreadable images are not looked at.
        readable: shape (N,).
        config: how.

    Raises:
        NDSError: shapes differ, features are not finite, more than ``UNREADABLE_OF_SOURCE`` of the
            images are unreadable, K is larger than the number of images (or classes).
    """
    fit = fit_centroids(index, features, readable, config)
    return finished_partition(index, fit.labels, fit.centroids, config)


def fit_centroids(
    index: SourceIndex,
    features: npt.NDArray[np.floating],
    readable: npt.NDArray[np.bool_],
    config: PartitionConfig,
) -> Centroids:
    """The first pass: centroids of the images of an index, or of a sample of one.

    Args, raises: as :func:`partition_by_features`.
    """
    points = _checked(index, features, readable, config)
    mean: npt.NDArray[np.floating] = np.zeros(0)
    components: npt.NDArray[np.floating] = np.zeros((0, 0))
    if config.pca_dim:
        points, mean, components = clustering.reduce_dimension(points, config.pca_dim, config.seed)
    classes = index.column("label")[readable]
    if config.method == "kmeans":
        labels, centroids = clustering.kmeans(points, config.num_clusters, config.seed)
        of_class = np.zeros(0, np.int64)
    else:
        labels, centroids = clustering.superclass(points, classes, config.num_clusters, config.seed)
        of_class = np.full(len(index.classes), NO_CLUSTER, np.int64)
        known = classes != NO_LABEL
        of_class[classes[known]] = labels[known]
    found = np.full(len(index), NO_CLUSTER, np.int64)
    found[readable] = labels
    return Centroids(centroids, found, of_class, mean, components)


def finished_partition(
    index: SourceIndex,
    found: npt.NDArray[np.integer],
    centroids: npt.NDArray[np.floating],
    config: PartitionConfig,
) -> Partition:
    """Clusters merged, numbered and told of, once each image has its centroid.

    Args:
        index: N images.
        found: number of the centroid of each, -1 for an unreadable one, shape (N,).
        centroids: shape (K, D).
        config: how.
    """
    readable = found >= 0
    sizes = np.bincount(found[readable], minlength=len(centroids))
    merged_into, merge_notes = clustering.merge_small(sizes, centroids, config.min_size)
    merged = np.full(len(index), NO_CLUSTER, dtype=np.int64)
    merged[readable] = merged_into[found[readable]]
    cluster = clustering.number_by_size(merged)
    notes = [*_sample_notes(index, config), *_unlabelled_notes(index, readable, config), *merge_notes]
    if config.method == "superclass":
        notes += _class_notes(cluster, index)
    if not readable.all():
        notes.append(f"{int((~readable).sum())} unreadable images are in no cluster and are never drawn")
    for note in notes:
        logger.info("partition: %s", note)
    identities = index.table.select(["source", "image_id"])
    return Partition(cluster, identities, index.hash, method=config.method, seed=config.seed, notes=notes)


def partition_key(features_key: str, config: PartitionConfig, images: int) -> str:
    """Hash of everything a partition is made from: the features (and so the index) and the config.

    Args:
        features_key: of the features.
        config: how.
        images: of the index; the size of the sample decides where it is not all of them.
    """
    count = sample_size(images, config)
    return content_hash([KIND, features_key, config.hash, *([count] if count < images else [])])


def _checked(
    index: SourceIndex, features: npt.NDArray[Any], readable: npt.NDArray[np.bool_], config: PartitionConfig
) -> npt.NDArray[Any]:
    """The features of the readable images, shape (readable images, D)."""
    if features.ndim != 2 or len(features) != len(index) or readable.shape != (len(index),):
        raise NDSError(
            f"partition: expected features of shape ({len(index)}, D) and readable of shape ({len(index)},), "
            f"got {features.shape} and {readable.shape}."
        )
    check_readable(readable)
    points = features if readable.all() else features[readable]
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        first = index[int(np.flatnonzero(readable)[np.argmin(finite)])]
        raise NDSError(
            f"partition: features of {int((~finite).sum())} images are not finite, first image "
            f"{first.image_id!r} of {first.source!r}: the feature network's weights are broken."
        )
    check_num_clusters(config.num_clusters, len(points))
    return points


def check_num_clusters(num_clusters: int, images: int) -> None:
    """Refuse more clusters than images."""
    if num_clusters > images:
        raise NDSError(
            f"cannot cut {images} images into {num_clusters} clusters: lower --num-clusters "
            "(NDS.PARTITION.NUM_CLUSTERS)."
        )


def check_readable(
    readable: npt.NDArray[np.bool_], limit: float = UNREADABLE_OF_SOURCE, detail: str = ""
) -> None:
    """Refuse images of which more than a share cannot be read, or all; see :func:`check_broken`.

    Args:
        readable: shape (N,).
    """
    check_broken(int((~readable).sum()), len(readable), limit, detail)


def check_broken(broken: int, count: int, limit: float, detail: str = "") -> None:
    """Refuse ``count`` images of which more than a share cannot be read, or all.

    Args:
        broken: how many cannot.
        limit: the share that may be unreadable.
        detail: added to the message, such as the first image's error.
    """
    if broken > limit * count or broken == count:
        share = "all of them" if broken == count else f"more than {limit:.0%}"
        raise NDSError(
            f"{broken} of {count} images cannot be read, {share}: is the "
            f"image folder right?{detail and f' First: {detail}'}"
        )


def _sample_notes(index: SourceIndex, config: PartitionConfig) -> list[str]:
    count = sample_size(len(index), config)
    return [f"the centroids are of a sample of {count} of {len(index)} images"] if count < len(index) else []


def _unlabelled_notes(
    index: SourceIndex, readable: npt.NDArray[np.bool_], config: PartitionConfig
) -> list[str]:
    count = int((index.column("label")[readable] == NO_LABEL).sum()) if config.method == "superclass" else 0
    return (
        [f"{count} images without a label went to the nearest superclass by their features"] if count else []
    )


def _class_notes(cluster: npt.NDArray[np.int32], index: SourceIndex) -> list[str]:
    """The classes of each cluster, one line each."""
    labels = index.column("label")
    notes = []
    for k in range(int(cluster.max()) + 1):
        members = labels[cluster == k]
        names = [index.classes[i] for i in np.unique(members[members != NO_LABEL])]
        notes.append(f"cluster {k} holds the classes {', '.join(names) or 'none'}")
    return notes
