"""The partition: a source cut into K clusters S_k with a hard assignment g_k(x) in {0, 1}."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import write_table
from nds_plugin.files.parts import read_whole
from nds_plugin.source.index import SourceIndex, same_identities

KIND = "partition"
NO_CLUSTER = -1


class Partition:
    """Cluster of every image of an index, in the index's order.

    Args:
        cluster: shape (N,), 0..K-1 without a hole, or -1 for an image that belongs to no cluster
            (it could not be read): such an image has sampling probability zero.
        identities: columns source and image_id, one row per image.
        index_hash: hash of the index.
        method, seed: as in :class:`~nds_plugin.source.partitioning.PartitionConfig`.
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

    @classmethod
    def join(cls, partitions: Sequence[Partition], index: SourceIndex) -> Partition:
        """The partition of joined indexes whose clusters are those of each, one after the other.

        Args:
            partitions: of the parts, in their order.
            index: of the whole, as :meth:`SourceIndex.join` makes it.
        """
        first = np.cumsum([0, *(part.num_clusters for part in partitions)])
        parts = [
            np.where(part.cluster >= 0, part.cluster + start, NO_CLUSTER)
            for part, start in zip(partitions, first)
        ]
        return cls(np.concatenate(parts), index.table, index.hash, method="joined", seed=0)

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
        table, header = read_whole(path, KIND)
        partition = cls(
            table.column("cluster").to_numpy(),
            table,
            header["index_hash"],
            method=header["method"],
            seed=header["seed"],
            notes=header.get("notes", ()),
        )
        # Parts of several processes, not sealed yet, know nothing of the whole.
        if header.get("hash", partition.hash) != partition.hash:
            raise NDSError(f"{path}: its clusters are not those it was saved with: make it again.")
        return partition

    def check_matches(self, index: SourceIndex) -> None:
        """Check that this is the partition of exactly this index.

        Raises:
            NDSError: images are missing, added or in another order, or their records differ.
        """
        if same_identities(self.identities, index.table) and self.index_hash == index.hash:
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
