"""The partition: a source cut into K clusters S_k with a hard assignment g_k(x) in {0, 1}.

Reading, checking and listing a partition needs neither torch nor scikit-learn; making one
needs scikit-learn.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin import clustering
from nds_plugin.artifacts import content_hash, read_table, write_table
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.index import NO_LABEL, SourceIndex

KIND = "partition"
METHODS = ("kmeans", "superclass")
NO_CLUSTER = -1
MAX_UNREADABLE = 0.1  # share of a source's images that may be unreadable; our choice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartitionConfig:
    """How a source is cut.

    Attributes:
        method: "kmeans" on the images' features (the paper's unsupervised partition), or
            "superclass": k-means on the mean feature of each class, an image going with its label.
        num_clusters: K asked for; fewer may come out where clusters are empty or tiny.
        seed: of k-means.
        min_size: clusters with fewer images are merged into the nearest; 1 drops only empty ones.
        pca_dim: principal components that the features are reduced to before k-means; 0 for none.

    Raises:
        NDSError: an unknown method, or a number out of range.
    """

    method: str = "kmeans"
    num_clusters: int = 50
    seed: int = 0
    min_size: int = 1
    pca_dim: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("partition method", self.method, METHODS)
        for name, low in (("num_clusters", 1), ("seed", 0), ("min_size", 1), ("pca_dim", 0)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or not low <= value < 2**32:
                raise NDSError(f"partition: {name} must be a whole number of at least {low}, got {value!r}.")

    @property
    def hash(self) -> str:
        """Hash of all settings; part of the key of what is made with them."""
        return content_hash(asdict(self))


class Partition:
    """Cluster of every image of an index, in the index's order.

    Args:
        cluster: shape (N,), 0..K-1 without a hole, or -1 for an image that belongs to no cluster
            (it could not be read): such an image has sampling probability zero.
        identities: columns source and image_id, one row per image.
        index_hash: hash of the index.
        method, seed: as in :class:`PartitionConfig`.
        notes: what was merged, left out or assigned in another way, one line each.

    Raises:
        NDSError: lengths differ, no image is in a cluster, or the numbering has a hole.
    """

    def __init__(
        self,
        cluster: npt.NDArray[np.integer],
        identities: pa.Table,
        index_hash: str,
        *,
        method: str,
        seed: int,
        notes: Sequence[str] = (),
    ) -> None:
        self.cluster: npt.NDArray[np.int32] = np.array(cluster, dtype=np.int32)
        self.cluster.flags.writeable = False
        self.identities = identities.select(["source", "image_id"])
        self.index_hash = index_hash
        self.method = method
        self.seed = int(seed)
        self.notes = list(notes)
        if self.cluster.shape != (identities.num_rows,):
            raise NDSError(
                f"partition: expected one cluster for each of {identities.num_rows} images, got an array of "
                f"shape {self.cluster.shape}."
            )
        if self.cluster.min() < NO_CLUSTER or self.cluster.max() < 0 or (self.sizes == 0).any():
            raise NDSError(
                f"partition: clusters must be numbered 0 to K-1 without a hole (-1: none), got "
                f"{np.unique(self.cluster)[:20].tolist()}."
            )

    @classmethod
    def whole(cls, index: SourceIndex) -> Partition:
        """The partition with one cluster of all images, for selectors that need no clusters."""
        cluster = np.zeros(len(index), dtype=np.int32)
        return cls(cluster, index.table, index.hash, method="whole", seed=0)

    @classmethod
    def by_source(cls, index: SourceIndex) -> Partition:
        """The partition whose clusters are the source datasets, in the order of the index.

        For selectors that weigh single images: their draw is told by dataset.
        """
        number = {name: k for k, name in enumerate(index.sources)}
        cluster = np.array([number[name] for name in index.column("source")], dtype=np.int32)
        return cls(cluster, index.table, index.hash, method="source", seed=0)

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.sizes)

    @functools.cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """|S_k|: images of each cluster, shape (K,)."""
        return np.bincount(self.cluster[self.cluster >= 0]).astype(np.int64)

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the index and of every image's cluster."""
        return hashlib.sha256(self.index_hash.encode() + self.cluster.astype("<i4").tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.cluster)

    def members(self, cluster: int) -> npt.NDArray[np.int64]:
        """Rows of the index that are in a cluster, ascending.

        Raises:
            NDSError: there is no such cluster.
        """
        if not 0 <= cluster < self.num_clusters:
            raise NDSError(f"no cluster {cluster}: the partition has clusters 0 to {self.num_clusters - 1}.")
        return np.flatnonzero(self.cluster == cluster)

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the partition artefact."""
        table = self.identities.append_column("cluster", pa.array(self.cluster, type=pa.int32()))
        payload = {
            "num_clusters": self.num_clusters,
            "hash": self.hash,
            "index_hash": self.index_hash,
            "method": self.method,
            "seed": self.seed,
            "notes": self.notes,
        }
        write_table(path, KIND, key, table, payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Partition:
        """Read a partition artefact.

        Raises:
            NDSError: not a whole partition file, or its rows are not those that its hash is of.
        """
        table, header = read_table(path, KIND)
        partition = cls(
            table.column("cluster").to_numpy(),
            table,
            header["index_hash"],
            method=header["method"],
            seed=header["seed"],
            notes=header["notes"],
        )
        if partition.hash != header["hash"]:
            raise NDSError(f"{path}: its clusters are not those it was saved with: make it again.")
        return partition

    def check_matches(self, index: SourceIndex) -> None:
        """Check that this is the partition of exactly this index.

        Raises:
            NDSError: images are missing, added or in another order, or their records differ.
        """
        names = pa.schema([("source", pa.string()), ("image_id", pa.string())])
        same = self.identities.cast(names).equals(index.table.select(names.names).cast(names))
        if same and self.index_hash == index.hash:
            return  # the usual case, without Python objects for millions of images
        ours = self.identities.to_pydict()
        keys = list(zip(ours["source"], ours["image_id"]))
        rows = index.positions(ours["source"], ours["image_id"])
        gone, new = int((rows < 0).sum()), len(index) - int((rows >= 0).sum())
        advice = "make the partition again from this index."
        if gone:
            raise NDSError(
                f"partition does not belong to this index: {gone} of its {len(keys)} images are not in the "
                f"index, first {keys[int(np.argmax(rows < 0))]}: {advice}"
            )
        if new:
            known = set(keys)
            columns = zip(index.column("source").tolist(), index.column("image_id").tolist())
            first = next(key for key in columns if key not in known)
            raise NDSError(
                f"partition does not belong to this index: {new} of the index's {len(index)} images are not "
                f"in it, first {first}: {advice}"
            )
        if (rows != np.arange(len(rows))).any():
            raise NDSError(f"partition does not belong to this index: the images' order differs: {advice}")
        raise NDSError(
            "partition does not belong to this index: the images are the same, but their sizes, labels, "
            f"classes or checksums differ ({self.index_hash[:12]} against {index.hash[:12]}): {advice}"
        )


def partition_by_features(
    index: SourceIndex,
    features: npt.NDArray[np.floating],
    readable: npt.NDArray[np.bool_],
    config: PartitionConfig,
) -> Partition:
    """Cut a source by the features of its images; a pure function of its arguments.

    Clusters are numbered by size, the largest first (our choice), so that the numbering is
    stable. Images that cannot be read get cluster -1.

    Args:
        index: N images.
        features: shape (N, D), L2-normalised; rows of unreadable images are not looked at.
        readable: shape (N,).
        config: how.

    Raises:
        NDSError: shapes differ, features are not finite, more than ``MAX_UNREADABLE`` of the
            images are unreadable, K is larger than the number of images (or classes).
    """
    points = _checked(index, features, readable, config)
    if config.pca_dim:
        points = clustering.reduce_dimension(points, config.pca_dim, config.seed)
    notes: list[str] = []
    if config.method == "kmeans":
        labels, centroids = clustering.kmeans(points, config.num_clusters, config.seed)
    else:
        classes = index.column("label")[readable]
        labels, centroids = clustering.superclass(points, classes, config.num_clusters, config.seed)
        if unlabelled := int((classes == NO_LABEL).sum()):
            notes.append(
                f"{unlabelled} images without a label went to the nearest superclass by their features"
            )
    sizes = np.bincount(labels, minlength=len(centroids))
    merged_into, merge_notes = clustering.merge_small(sizes, centroids, config.min_size)
    found = np.full(len(index), NO_CLUSTER, dtype=np.int64)
    found[readable] = merged_into[labels]
    cluster = clustering.number_by_size(found)
    notes += merge_notes
    if config.method == "superclass":
        notes += _class_notes(cluster, index)
    if not readable.all():
        notes.append(f"{int((~readable).sum())} unreadable images are in no cluster and are never drawn")
    for note in notes:
        logger.info("partition: %s", note)
    identities = index.table.select(["source", "image_id"])
    return Partition(cluster, identities, index.hash, method=config.method, seed=config.seed, notes=notes)


def partition_key(features_key: str, config: PartitionConfig) -> str:
    """Hash of everything a partition is made from: the features (and so the index) and the config."""
    return content_hash([KIND, features_key, config.hash])


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
        raise NDSError(f"cannot cut {images} images into {num_clusters} clusters: lower num_clusters.")


def check_readable(readable: npt.NDArray[np.bool_], limit: float = MAX_UNREADABLE, detail: str = "") -> None:
    """Refuse images of which more than a share cannot be read, or all.

    Args:
        readable: shape (N,).
        limit: the share that may be unreadable.
        detail: added to the message, such as the first image's error.
    """
    broken = int((~readable).sum())
    if broken > limit * len(readable) or broken == len(readable):
        share = "all of them" if broken == len(readable) else f"more than {limit:.0%}"
        raise NDSError(
            f"{broken} of {len(readable)} images cannot be read, {share}: is the "
            f"image folder right?{detail and f' First: {detail}'}"
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


class ClusterRow(NamedTuple):
    """One cluster in a summary: ``share`` of all clustered images, images ``by_source``."""

    cluster: int
    images: int
    share: float
    by_source: dict[str, int]


def summarise(partition: Partition, index: SourceIndex) -> list[ClusterRow]:
    """Size and make-up of each cluster, sources in falling order of their images."""
    partition.check_matches(index)
    names = np.array(index.sources)
    order = {name: i for i, name in enumerate(index.sources)}
    source = np.array([order[name] for name in index.column("source")])
    rows = []
    for k, size in enumerate(partition.sizes.tolist()):
        counts = np.bincount(source[partition.cluster == k], minlength=len(names))
        falling = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
        by_source = {str(names[i]): int(counts[i]) for i in falling}
        rows.append(ClusterRow(k, size, size / int(partition.sizes.sum()), by_source))
    return rows


def summary_table(rows: Sequence[ClusterRow], most: int = 4) -> str:
    """The summary as text, with the ``most`` largest sources of each cluster."""
    from tabulate import tabulate

    lines = []
    for row in rows:
        parts = [f"{name} {count / row.images:.0%}" for name, count in list(row.by_source.items())[:most]]
        rest = len(row.by_source) - most
        if rest > 0:
            parts.append(f"{rest} more")
        lines.append([row.cluster, row.images, f"{row.share:.1%}", ", ".join(parts)])
    return tabulate(lines, headers=["cluster", "images", "share", "sources (share of the cluster)"])
