"""Features on disk, one ``.npy`` file a shard: made by an executor, kept, read without holding them all."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nds_plugin.engine.executor import Executor, Pass, Shard
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write, content_hash
from nds_plugin.images.reading import ImageError, load_image
from nds_plugin.source.extraction import MICRO_BATCH, Extraction, Extractor, Features
from nds_plugin.source.index import copied_slice
from nds_plugin.source.partitioning import check_broken

_SHARD_NAME = re.compile(r"[0-9a-f]{16}_\d{5,}\.npy$")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureShards:
    """Features of N images in files of ``size`` images each, the last one shorter; NaN for an unreadable image."""

    paths: tuple[Path, ...]
    size: int

    def part(self, number: int) -> Features:
        """One file's features, memory-mapped."""
        found: Features = np.load(self.paths[number], mmap_mode="r", allow_pickle=False)
        return found

    def parts(self) -> Iterator[Features]:
        """All files' features, one after the other."""
        return (self.part(number) for number in range(len(self.paths)))

    def readable(self) -> npt.NDArray[np.bool_]:
        """Whether each image could be read, shape (N,)."""
        return np.concatenate([_readable(part) for part in self.parts()])

    def take(self, rows: npt.NDArray[np.int64]) -> Features:
        """Features of some rows, ascending; a file at a time is read."""
        edges = np.searchsorted(rows, np.arange(len(self.paths) + 1) * self.size)
        found = np.empty((len(rows), self.part(0).shape[1]), np.float32)
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            if stop > start:
                found[start:stop] = self.part(number)[rows[start:stop] - number * self.size]
        return found

    def load(self, rows: npt.NDArray[np.int64] | None = None) -> tuple[Features, npt.NDArray[np.bool_]]:
        """Features, zeros for an unreadable image, and whether each could be read; of all images, or of some rows, ascending."""
        if rows is None:
            rows = np.arange(sum(len(part) for part in self.parts()))
        features = self.take(rows)
        readable = _readable(features)
        features[~readable] = 0
        return features, readable


class CountedReadable:
    """How many images of a pass could not be read so far, held against the share that must be.

    Args:
        count: images of the pass.
        limit: the share that may be unreadable.
    """

    def __init__(self, count: int, limit: float) -> None:
        self._count, self._limit = count, limit
        self._broken = 0

    def add(self, readable: npt.NDArray[np.bool_], path: Path, detail: str) -> None:
        """Add a shard's; its file goes where it is one too many, so that a lost folder does not stay in it.

        Raises:
            NDSError: more images than allowed are unreadable, or all.
        """
        self._broken += int((~readable).sum())
        try:
            check_broken(self._broken, self._count, self._limit, detail)
        except NDSError:
            path.unlink(missing_ok=True)
            raise


def make_feature_shards(
    paths: pa.ChunkedArray,
    how: Extraction,
    key: str,
    folder: Path,
    size: int,
    limit: float,
    executor: Executor,
) -> FeatureShards:
    """Features of image files, in their order; finished files are kept, those of other inputs removed.

    Args:
        paths: N image files.
        how: the features are computed.
        key: hash of all that they depend on; it names the files.
        folder: where they are.
        size: images in a file, a multiple of ``MICRO_BATCH``.
        limit: share of the images that may be unreadable; never all of them.
        executor: who computes them.

    Raises:
        NDSError: more images than that cannot be read, or the network's features are not finite.
    """
    assert size % MICRO_BATCH == 0, size
    key = content_hash([key, size])  # or a short last file would pass for a whole one of another size
    if executor.processes.rank == 0:
        _sweep(folder, key)
    starts = range(0, len(paths), size)
    files = tuple(folder / f"{key[:16]}_{number:05d}.npy" for number in range(len(starts)))
    counted = CountedReadable(len(paths), limit)
    shards = (
        Shard(
            f"features {number + 1} of {len(files)}",
            file,
            copied_slice(paths, start, size).combine_chunks(),
            min(size, len(paths) - start),
        )
        for number, (start, file) in enumerate(zip(starts, files))
    )

    def finished(shard: Shard[pa.Array]) -> None:
        readable = _readable(np.load(shard.path, mmap_mode="r"))
        if not readable.all():
            broken = shard.argument[int(np.argmin(readable))].as_py()
            counted.add(readable, shard.path, why_unreadable(broken))

    executor.map(Pass("features", _extract, _is_done, how, finished), shards, len(paths))
    return FeatureShards(files, size)


def remove_shards(folder: Path) -> None:
    """Remove files of features, and their folder if nothing else is in it."""
    for path in _shards_in(folder):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def why_unreadable(path: str) -> str:
    """The error of an image that cannot be read; empty if it now can."""
    try:
        load_image(path)
    except ImageError as error:
        return str(error)
    return ""


def _extract(how: Extraction, argument: pa.Array, path: Path) -> None:
    """Make one file."""
    files = argument.to_pylist()
    with tqdm(
        total=len(files), desc=f"features {path.stem[-5:]}", unit="image", disable=None, leave=False
    ) as progress:
        features, _ = Extractor(how).run(files, progress)
    # Not straight into the file: numpy's own writing does not say that it was the disk that is full.
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _is_done(shard: Shard[pa.Array]) -> bool:
    """Whether a file is there and whole, and no image that could not be read now can."""
    files = shard.argument
    try:
        found = np.load(shard.path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return False
    except (ValueError, EOFError, OSError) as error:
        logger.warning("%s cannot be read (%s) and is made again", shard.path, error)
        return False
    if found.dtype != np.float32 or found.ndim != 2 or len(found) != len(files):
        logger.warning("%s has another shape than its images and is made again", shard.path)
        return False
    broken = np.flatnonzero(~_readable(found)).tolist()
    return all(why_unreadable(files[row].as_py()) for row in broken)


def _readable(features: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return ~np.isnan(features[:, 0])


def _sweep(folder: Path, key: str) -> None:
    """Remove the files of other inputs."""
    for path in _shards_in(folder):
        if not path.name.startswith(key[:16]):
            logger.info("removing %s: it is of other images, another network or crop", path)
            path.unlink(missing_ok=True)


def _shards_in(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if _SHARD_NAME.match(path.name)]
