"""A partition in parts, for sources that do not fit into memory: its clusters go by, a batch at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import DamagedFileError, NDSError
from nds_plugin.files.locations import StrPath
from nds_plugin.files.parts import Parts, write_head, write_part
from nds_plugin.source.census import Census, SourceCodes
from nds_plugin.source.index_parts import IndexParts
from nds_plugin.source.partition import KIND, NO_CLUSTER, Partition

Clusters = npt.NDArray[np.int32]
Blocks = Iterator[tuple[int, Clusters]]

logger = logging.getLogger(__name__)


def write_partition_part(
    folder: StrPath, number: int, table: pa.Table, key: str, index_hash: str, method: str, seed: int
) -> None:
    """Write one part of a partition; several processes may write some each, and one then seals it.

    Args:
        table: columns source, image_id and cluster, of images in the order of the index; others are kept.

    Raises:
        NDSError: it cannot be written.
    """
    table = table.set_column(
        table.column_names.index("cluster"), "cluster", table.column("cluster").cast(pa.int32())
    )
    write_part(folder, number, KIND, key, table, {"index_hash": index_hash, "method": method, "seed": seed})


def seal_partition(folder: StrPath, key: str, notes: tuple[str, ...] = ()) -> StreamedPartition:
    """Close a partition whose parts are all there: its hash and its census go into the head.

    Raises:
        NDSError: a part is missing, damaged or of another partition; clusters with a hole; it cannot be written.
    """
    parts = Parts.open(folder, KIND)
    found, header = StreamedPartition.of(parts, str(folder)), parts.header
    payload = {
        "num_clusters": len(found.census.sizes),
        "hash": found.hash,
        "index_hash": found.index_hash,
        "method": header["method"],
        "seed": header["seed"],
        "notes": list(notes),
        "census": found.census.payload(),
    }
    write_head(folder, KIND, key, payload)
    return StreamedPartition.open(folder)


def save_in_parts(partition: Partition, folder: StrPath, key: str, rows: int) -> StreamedPartition:
    """Write a partition that is in memory in parts of ``rows`` images."""
    table = partition.identities.append_column("cluster", pa.array(partition.cluster, type=pa.int32()))
    for number, start in enumerate(range(0, len(table), rows)):
        piece = table.slice(start, rows)
        write_partition_part(
            folder, number, piece, key, partition.index_hash, partition.method, partition.seed
        )
    return seal_partition(folder, key, tuple(partition.notes))


@dataclass(frozen=True)
class StreamedPartition:
    """The clusters of a source, read anew each time they are asked for.

    Attributes:
        census: images by cluster and source.
        hash, index_hash: as of :class:`~nds_plugin.source.partition.Partition`.
        path: for messages.
    """

    census: Census
    hash: str
    index_hash: str
    path: str
    _read: Callable[[], Blocks]

    def __len__(self) -> int:
        return int(self.census.counts.sum())

    @classmethod
    def open(cls, path: StrPath) -> StreamedPartition:
        """Find a partition, of one file or in parts; one without a census is counted.

        Raises:
            NDSError: missing, a part missing or half written, or clusters with a hole.
        """
        return cls.of(Parts.open(path, KIND), str(path))

    @classmethod
    def of(cls, parts: Parts, place: str) -> StreamedPartition:
        """The partition of parts that are open; ``place`` is its path, for messages. Raises as :meth:`open`."""
        header = parts.header
        for name in ("index_hash", "method", "seed"):
            if name not in header:
                raise DamagedFileError(f"{place}: its header has no {name}: make the partition again.")
        if "census" in header and "hash" in header:
            census, found = Census.from_payload(header["census"], place), str(header["hash"])
        else:
            census, found = _counted(parts, header["index_hash"])
        if (census.sizes == 0).any() or len(census.sizes) == 0:
            empty = np.flatnonzero(census.sizes == 0)[:20].tolist()
            raise NDSError(
                f"{place}: clusters must be numbered 0 to K-1 without a hole (-1: none), but no image is in {empty}: "
                "make the partition again."
            )
        if header.get("hash", found) != found:
            raise _not_as_saved(place)
        return cls(census, found, str(header["index_hash"]), place, lambda: _clusters(parts))

    @classmethod
    def by_source(cls, index: IndexParts) -> StreamedPartition:
        """The partition whose clusters are the sources: :meth:`Partition.by_source` of an index in parts."""
        digest = hashlib.sha256(index.hash.encode())
        names = index.sources

        def read() -> Blocks:
            codes = SourceCodes(names)
            for start, batch in index.parts.batches(["source"]):
                yield start, codes.of(batch.column(0)).astype(np.int32)

        counts = np.zeros(len(names), dtype=np.int64)
        for _, cluster in read():
            digest.update(cluster.astype("<i4").tobytes())
            counts += np.bincount(cluster, minlength=len(names))
        table = np.concatenate([np.diag(counts), np.zeros((1, len(names)), dtype=np.int64)])
        return cls(Census(tuple(names), table), digest.hexdigest(), index.hash, index.parts.path, read)

    def blocks(self) -> Blocks:
        """All clusters, in batches, each with the row of its first; they are held against the hash.

        Raises:
            NDSError: a part is damaged, or its clusters are not those that the hash is of.
        """
        digest = hashlib.sha256(self.index_hash.encode())
        count = len(self.census.sizes)
        for start, cluster in self._read():
            if len(cluster) and not (cluster.min() >= NO_CLUSTER and cluster.max() < count):
                raise _not_as_saved(self.path)
            digest.update(cluster.astype("<i4", copy=False).data)
            yield start, cluster
        if digest.hexdigest() != self.hash:
            raise _not_as_saved(self.path)

    def check_matches(self, index: IndexParts) -> None:
        """Check that this is the partition of exactly this index.

        Raises:
            NDSError: it has another number of images, or is of other ones or of other records of them.
        """
        advice = "make the partition again from this index."
        if len(self) != len(index):
            raise NDSError(
                f"partition does not belong to this index: it has {len(self):,} images, the index {len(index):,}: {advice}"
            )
        if self.index_hash != index.hash:
            raise NDSError(
                "partition does not belong to this index: it was made from another one "
                f"({self.index_hash[:12]} against {index.hash[:12]}): {advice}"
            )


def _clusters(parts: Parts) -> Blocks:
    for start, batch in parts.batches(["cluster"]):
        yield start, _numbers(batch.column(0), parts.path)


def _numbers(column: pa.Array, path: str) -> Clusters:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DamagedFileError(
            f"{path}: its clusters must be whole numbers, got {column.type}: make the partition again."
        )
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False), dtype=np.int32)


def _counted(parts: Parts, index_hash: str) -> tuple[Census, str]:
    """The census and the hash of a partition, by reading it."""
    logger.info("partition: counting the clusters of %d images in %s", len(parts), parts.path)
    digest, codes = hashlib.sha256(index_hash.encode()), SourceCodes()

    def pieces() -> Iterator[tuple[Clusters, Any]]:
        for _, batch in parts.batches(["source", "cluster"]):
            cluster = _numbers(batch.column(1), parts.path)
            digest.update(cluster.astype("<i4", copy=False).data)
            yield cluster, codes.of(batch.column(0))

    census = Census.count(pieces(), codes)
    return census, digest.hexdigest()


def _not_as_saved(path: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path}: its clusters are not those it was saved with: make the partition again."
    )
