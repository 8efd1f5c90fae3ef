"""A partition in two passes: centroids of a sample, then every image decoded, embedded and assigned, shard by shard.

Never more than a shard of features is in memory, beside those of the sample. Each step leaves files with the
hash of their inputs, so that a killed run, and any number of processes or nodes, go on where they were.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from nds_plugin.engine.executor import Executor, Pass, Shard
from nds_plugin.files.artifacts import array_hash, content_hash, is_valid, read_header, write_table
from nds_plugin.files.part_files import HEAD, part_name
from nds_plugin.source.centroids import Centroids, has_key
from nds_plugin.source.extraction import Extraction, Extractor
from nds_plugin.source.feature_shards import CountedReadable, FeatureShards, why_unreadable
from nds_plugin.source.features import feature_shards, log_unreadable
from nds_plugin.source.index import SourceIndex, copied_slice, take_rows
from nds_plugin.source.partition import KIND, Partition
from nds_plugin.source.partition_parts import seal_partition, write_partition_part
from nds_plugin.source.partitioning import (
    UNREADABLE_OF_SOURCE,
    PartitionConfig,
    check_num_clusters,
    check_readable,
    finished_partition,
    fit_centroids,
    sample_rows,
)

ASSIGNED_KIND = "assigned"
_CENTROIDS = "centroids.safetensors"

logger = logging.getLogger(__name__)


def has_features(folder: Path) -> bool:
    """Whether the parts of a partition hold the features of its images."""
    first = folder / part_name(0)
    return first.is_file() and "features" in pq.read_schema(first).names


@dataclass(frozen=True)
class TwoPasses:
    """How a partition is made in shards.

    Attributes:
        config: of the partition.
        how: its features are computed.
        executor: who does it.
        folder: of the passes' files: ``centroids.safetensors``, and ``part-00000.parquet`` and so on with
            source, image_id, cluster and distance to the centroid of every image.
        features: folder of features: of every image, or of the sample in a folder ``sample`` below it.
        shard_size: images in a shard.
        all_features: whether a later step wants the features of every image, so that they are computed once, before
            the clusters. The partition is the same if an image has the same features in any place of a batch, as it
            has on a CPU (not tried on a GPU).
    """

    config: PartitionConfig
    how: Extraction
    executor: Executor
    folder: Path
    features: Path
    shard_size: int
    all_features: bool = False

    def run(self, index: SourceIndex, key: str) -> Partition:
        """Cut a source; all processes of a job call it.

        Args:
            index: N images.
            key: of the partition, hash of all that decides it.

        Raises:
            NDSError: too many images cannot be read, more clusters than images or classes, or a shard failed
                repeatedly.
        """
        check_num_clusters(self.config.num_clusters, len(index))
        rows = sample_rows(len(index), self.config)
        fitted = len(rows) == len(index)
        sample = index if fitted else SourceIndex(take_rows(index.table, rows), index.classes)
        whole = fitted or self.all_features
        if whole:
            images, folder = index, self.features
        else:
            images, folder, rows = sample, self.features / "sample", np.arange(len(sample))
        embedded = feature_shards(images, self.how, folder, self.shard_size, executor=self.executor)
        # Of what is there now: an image may have been repaired since a run that was killed.
        of_sample = content_hash([key, array_hash(embedded.readable()[rows])])
        centroids = self._fit(sample, embedded, rows, of_sample)
        self._assign(index, centroids, embedded if whole else None, fitted, of_sample)
        found = np.concatenate([_column(path, "cluster") for path in self._files("assigned", len(index))])
        readable = found >= 0
        check_readable(readable)
        if not whole and self.executor.processes.rank == 0:
            log_unreadable(readable, index.table.column("file_name"))
        partition = finished_partition(index, found, Centroids.load(centroids).centroids, self.config)
        self._number(partition, found, key)
        self.executor.processes.barrier()
        return partition

    def _sweep(self, images: int) -> None:
        """Remove the head and the further parts of another partition."""
        (self.folder / HEAD).unlink(missing_ok=True)
        for path in set(self.folder.glob("part-*.parquet")) - set(self._files("", images)):
            path.unlink()

    def _fit(
        self, sample: SourceIndex, embedded: FeatureShards, rows: npt.NDArray[np.int64], key: str
    ) -> Path:
        """The first pass, by one process: centroids of the sample, whose features are in these rows, in a file."""
        path = self.folder / _CENTROIDS
        shard = Shard("centroids", path, (sample, embedded, rows, key))
        self.executor.map(
            Pass("centroids", _fit, lambda s: has_key(s.path, key), self.config, on_gpu=False), [shard]
        )
        return path

    def _files(self, name: str, images: int) -> list[Path]:
        """The shards' files of a step."""
        folder = self.folder / name
        return [folder / part_name(i) for i in range(-(-images // self.shard_size))]

    def _assign(
        self, index: SourceIndex, centroids: Path, embedded: FeatureShards | None, fitted: bool, key: str
    ) -> None:
        """The second pass: a file of the nearest centroids for each shard of the index.

        Args:
            embedded: features of the index, where they are there already.
            fitted: whether the centroids are of the whole index, and know the cluster of each image.
        """
        key = content_hash([ASSIGNED_KIND, key, self.shard_size, self.config.keep_features])
        counted = CountedReadable(len(index), UNREADABLE_OF_SOURCE)

        def shards() -> Iterator[Shard[_Slice]]:
            for number, path in enumerate(self._files("assigned", len(index))):
                start = number * self.shard_size
                images = copied_slice(index.table.select(_OF_IMAGES), start, self.shard_size)
                argument = _Slice(number, start, images, embedded, fitted, key)
                yield Shard(f"images {start} to {start + len(images) - 1}", path, argument, len(images))

        def finished(shard: Shard[_Slice]) -> None:
            readable = _column(shard.path, "cluster") >= 0
            if not readable.all():
                broken = shard.argument.images.column("file_name")[int(np.argmin(readable))].as_py()
                counted.add(readable, shard.path, why_unreadable(broken))

        shared = _Assigning(self.how, centroids, self.config.keep_features)
        self.executor.map(Pass("assign", _assign, _is_assigned, shared, finished), shards(), len(index))

    def _number(self, partition: Partition, found: npt.NDArray[np.int32], key: str) -> None:
        """The files of the second pass again, with the partition's own numbers of clusters."""
        lookup = np.full(int(found.max()) + 2, -1, np.int32)  # -1, the last, stays -1
        lookup[found] = partition.cluster
        key = content_hash([KIND, key, self.shard_size, self.config.keep_features, array_hash(found)])
        files = zip(self._files("assigned", len(found)), self._files("", len(found)))
        shards = (Shard(to.name, to, (number, source)) for number, (source, to) in enumerate(files))
        shared = _Numbering(lookup, key, partition.index_hash, partition.method, partition.seed)
        done = Pass("number", _number, lambda s: is_valid(s.path, KIND, key), shared, on_gpu=False)
        if self.executor.processes.rank == 0:
            self._sweep(len(found))
        self.executor.processes.barrier()
        self.executor.map(done, shards)
        if self.executor.processes.rank == 0:
            seal_partition(self.folder, key, tuple(partition.notes))


def clean(folder: Path) -> None:
    """Remove what a killed run would go on from; the partition, whose parts are in the folder, is saved."""
    shutil.rmtree(folder / "assigned", ignore_errors=True)


_OF_IMAGES = ["source", "image_id", "file_name", "label"]


@dataclass(frozen=True)
class _Slice:
    """A shard of the index; see ``TwoPasses._assign``."""

    number: int
    start: int
    images: pa.Table
    embedded: FeatureShards | None
    fitted: bool
    key: str


@dataclass(frozen=True)
class _Assigning:
    how: Extraction
    centroids: Path
    keep_features: bool


def _fit(
    config: PartitionConfig,
    argument: tuple[SourceIndex, FeatureShards, npt.NDArray[np.int64], str],
    path: Path,
) -> None:
    sample, embedded, rows, key = argument
    fit_centroids(sample, *embedded.load(rows), config).save(path, key)


def _assign(shared: _Assigning, part: _Slice, path: Path) -> None:
    centroids, labels = Centroids.load(shared.centroids), None
    features = _embed(shared.how, part) if part.embedded is None else part.embedded.part(part.number)
    if part.fitted:
        labels = centroids.labels[part.start : part.start + len(features)]
    number, distance = centroids.assign(features, part.images.column("label").to_numpy(), labels)
    table = part.images.select(["source", "image_id"])
    table = table.append_column("cluster", pa.array(number, pa.int32()))
    table = table.append_column("distance", pa.array(distance))
    if shared.keep_features:
        flat = pa.array(np.asarray(features, np.float16).reshape(-1))
        table = table.append_column("features", pa.FixedSizeListArray.from_arrays(flat, features.shape[1]))
    write_table(path, ASSIGNED_KIND, part.key, table, {"unreadable": int((number < 0).sum())})


def _embed(how: Extraction, part: _Slice) -> npt.NDArray[np.float32]:
    files = part.images.column("file_name").to_pylist()
    desc = f"images from {part.start}"
    with tqdm(total=len(files), desc=desc, unit="image", disable=None, leave=False) as progress:
        return Extractor(how).run(files, progress)[0]


def _is_assigned(shard: Shard[_Slice]) -> bool:
    """Whether a file is there and whole, and no image that could not be read now can."""
    if not is_valid(shard.path, ASSIGNED_KIND, shard.argument.key):
        return False
    if not read_header(shard.path, ASSIGNED_KIND)["unreadable"]:
        return True
    broken = np.flatnonzero(_column(shard.path, "cluster") < 0).tolist()
    files = shard.argument.images.column("file_name")
    return all(why_unreadable(files[row].as_py()) for row in broken)


@dataclass(frozen=True)
class _Numbering:
    """What the parts of a partition share; ``lookup`` has the partition's number of each centroid."""

    lookup: npt.NDArray[np.int32]
    key: str
    index_hash: str
    method: str
    seed: int


def _number(shared: _Numbering, part: tuple[int, Path], path: Path) -> None:
    number, source = part
    table = pq.read_table(source, partitioning=None)
    column = table.column_names.index("cluster")
    numbers = pa.array(shared.lookup[table.column("cluster").to_numpy()])
    table = table.set_column(column, "cluster", numbers)
    write_partition_part(
        path.parent, number, table, shared.key, shared.index_hash, shared.method, shared.seed
    )


def _column(path: Path, name: str) -> npt.NDArray[np.int32]:
    found: npt.NDArray[np.int32] = (
        pq.read_table(path, columns=[name], partitioning=None).column(name).to_numpy()
    )
    return found
