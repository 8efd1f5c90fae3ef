"""Endless streams of image positions as pure functions of position.

``stream.draw(start, stop)`` gives elements start .. stop; element n depends on nothing but n and
the stream's own arguments. So a stream can be cut into ranks and workers, resumed anywhere at
once, and pickled into loader workers, without a counter or a live generator anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.selection.counter_rng import Purpose, random_words, stream_key, to_unit
from nds_plugin.selection.weights import (
    Floats,
    Ints,
    available_weights,
    cluster_sizes,
    normalise_probabilities,
)

_FEISTEL_ROUNDS = 6
_CELLS = 1 << 12  # of the table that finds a draw's cluster; a power of two, so that cells are exact


class IndexStream(Protocol):
    """An endless stream of positions in a dataset."""

    def draw(self, start: int, stop: int) -> Ints:
        """Elements start .. stop, shape (stop - start,)."""
        ...


class ClusterDraws:
    """Draws with replacement as (cluster, rank in the cluster): all of a draw that needs no list of images.

    Args:
        weights, sizes: w and |S_k|, shape (K,).
        seed: 0 or more.
    """

    def __init__(self, weights: Floats, sizes: Ints, seed: int) -> None:
        self._key = stream_key(seed, Purpose.WEIGHTED)
        self._sizes = sizes
        self._cumulative = np.cumsum(available_weights(weights, sizes))
        self._cumulative /= self._cumulative[-1]
        self._guide = np.searchsorted(self._cumulative, np.arange(_CELLS + 1) / _CELLS, side="right")

    def draw(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Elements start .. stop: the cluster of each, and which of its images it is, counted from 0."""
        unit = to_unit(random_words(self._key, 2 * start, 2 * (stop - start)))
        chosen = self._clusters(unit[0::2])
        sizes = self._sizes[chosen]
        return chosen, np.minimum((unit[1::2] * sizes).astype(np.int64), sizes - 1)

    def _clusters(self, unit: Floats) -> Ints:
        """Cluster of each number in [0, 1), by its place in the cumulated weights.

        A table over equal cells answers where no boundary crosses the cell; only the others search.
        """
        cell = (unit * _CELLS).astype(np.int64)
        chosen = self._guide[cell]
        crossed = np.flatnonzero(chosen != self._guide[cell + 1])
        chosen[crossed] = np.searchsorted(self._cumulative, unit[crossed], side="right")
        return np.asarray(chosen)


class WeightedStream:
    """Draws with replacement: a cluster by its weight, then one of its images uniformly.

    That is p(x) = w_k / |S_k|. Memory: 4 bytes an image (8 beyond 2^32 images) beside the
    argument, which is not kept.

    Args:
        weights: w, shape (K,).
        cluster: cluster of each image, shape (N,); -1 is never drawn.
        seed: 0 or more.
    """

    def __init__(self, weights: Floats, cluster: npt.NDArray[np.integer], seed: int) -> None:
        sizes = cluster_sizes(cluster, len(weights))
        self._draws = ClusterDraws(weights, sizes, seed)
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._members = _members_by_cluster(cluster, self._offsets)

    def draw(self, start: int, stop: int) -> Ints:
        chosen, within = self._draws.draw(start, stop)
        return self._members[self._offsets[chosen] + within].astype(np.int64)


class ProbabilityStream:
    """Draws single images with replacement by their own probabilities, one random word each.

    Args:
        p: of each image, shape (N,), 0 or more; an image with 0 is never drawn.
        seed: 0 or more.
    """

    def __init__(self, p: Floats, seed: int) -> None:
        self._key = stream_key(seed, Purpose.SINGLE)
        drawable = np.flatnonzero(normalise_probabilities(p) > 0)
        # Over the drawable images alone: rounding at the end must not fall on an image of 0.
        self._members = drawable
        self._cumulative = np.cumsum(np.asarray(p, dtype=np.float64)[drawable])
        self._cumulative /= self._cumulative[-1]

    def draw(self, start: int, stop: int) -> Ints:
        unit = to_unit(random_words(self._key, start, stop - start))
        return np.asarray(self._members[np.searchsorted(self._cumulative, unit, side="right")])


def redraw(
    members: npt.NDArray[np.integer], seed: int, position: int, attempt: int, p: Floats | None = None
) -> int:
    """An element of ``members`` in place of the image at ``position`` that cannot be read.

    A pure function of its arguments, so that every worker and every resumed run agree.

    Args:
        members: positions of images, shape (M,).
        p: of each of them, above 0, need not sum to 1, shape (M,); None: all alike.
    """
    key = stream_key(seed, Purpose.REDRAW, position, attempt)
    unit = to_unit(random_words(key, 0, 1))[0]
    if p is not None:
        cumulative = np.cumsum(p)
        place = int(np.searchsorted(cumulative, unit * cumulative[-1], side="right"))
    else:
        place = int(unit * len(members))
    return int(members[min(place, len(members) - 1)])


def _members_by_cluster(cluster: npt.NDArray[np.integer], offsets: Ints) -> npt.NDArray[Any]:
    """Image positions sorted by cluster (counting sort, in bounded pieces), shape (sum of sizes,)."""
    num_clusters = len(offsets) - 1
    small = np.uint16 if num_clusters < 2**16 - 1 else np.uint32  # 16 bits sort by radix
    wide = np.uint32 if len(cluster) <= 2**32 else np.uint64
    members: npt.NDArray[Any] = np.empty(int(offsets[-1]), dtype=wide)
    filled = offsets[:-1].copy()
    step = 1 << 20
    for start in range(0, len(cluster), step):
        part = cluster[start : start + step]
        keys = np.where(part < 0, num_clusters, part).astype(small)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=num_clusters + 1)[:num_clusters]
        ends = np.cumsum(counts)
        for k in np.flatnonzero(counts):
            piece = order[ends[k] - counts[k] : ends[k]]
            members[filled[k] : filled[k] + counts[k]] = piece + start
        filled += counts
    return members


class ShuffledStream:
    """Epochs without replacement: every position of ``members`` once an epoch, in a new order.

    The order of an epoch is a Feistel permutation of the positions, evaluated where it is asked
    for: seeking into epoch one thousand costs nothing and no permutation is stored.

    Args:
        members: positions to go through, shape (M,).
        seed: 0 or more.
    """

    def __init__(self, members: npt.NDArray[np.integer], seed: int) -> None:
        if len(members) == 0:
            raise NDSError("there is no image to draw: the subset is empty.")
        self._members = np.asarray(members)
        self._seed = int(seed)
        stream_key(self._seed, Purpose.SHUFFLED, 0)  # refuses a seed that is none

    def draw(self, start: int, stop: int) -> Ints:
        size = len(self._members)
        parts = []
        while start < stop:
            epoch, first = divmod(start, size)
            last = min(size, first + stop - start)
            key = stream_key(self._seed, Purpose.SHUFFLED, epoch)
            parts.append(_permute(np.arange(first, last, dtype=np.uint64), size, key))
            start += last - first
        places = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return self._members[places].astype(np.int64)


def _permute(values: npt.NDArray[np.uint64], size: int, key: npt.NDArray[np.uint64]) -> Ints:
    """A keyed permutation of 0 .. size: a balanced Feistel network with cycle walking."""
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    out = _feistel(values, half_bits, key)
    while (outside := np.flatnonzero(out >= size)).size:
        out[outside] = _feistel(out[outside], half_bits, key)
    return out.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, key: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    round_keys = random_words(key, 0, _FEISTEL_ROUNDS)
    for round_key in round_keys:
        left, right = right, left ^ (_mix(right + round_key) & mask)
    return (left << shift) | right


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit moves every other."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class SegmentedStream:
    """One stream after the other: element n is element n of the last segment that began by n.

    Args:
        segments: (first position, stream), the first at 0, positions increasing.
    """

    def __init__(self, segments: Sequence[tuple[int, IndexStream]]) -> None:
        starts = [start for start, _ in segments]
        if not segments or starts[0] != 0 or sorted(set(starts)) != starts:
            raise NDSError(f"stream segments must begin at 0 and increase, got {starts}.")
        self._segments = list(segments)

    def draw(self, start: int, stop: int) -> Ints:
        ends = [begin for begin, _ in self._segments[1:]] + [max(stop, start)]
        parts = [
            stream.draw(max(start, begin), min(stop, end))
            for (begin, stream), end in zip(self._segments, ends)
            if max(start, begin) < min(stop, end)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def is_wide(sizes: npt.NDArray[np.integer]) -> npt.NDArray[np.int8]:
    """The orientation by which batches are grouped: 1 where an image is wider than tall or its size is not known.

    Args:
        sizes: width and height of each image, 0 where not known, shape (N, 2).
    """
    width, height = sizes[:, 0], sizes[:, 1]
    return ((width > height) | (width == 0)).astype(np.int8)


class AspectGroupedStream:
    """Reorder a stream inside windows so that batches hold images of one orientation.

    Detectron2 groups batches after loading, with buckets that a resumed run finds empty. Here
    the grouping is decided from the positions: a window of ``batches`` global batches is sorted
    by group (at most one batch a window is mixed) and its batches are shuffled. Every element of
    the window is kept, so that the frequencies stay what they were, and all ranks get the same
    orientation in the same step.

    Args:
        stream: the stream to reorder.
        groups: group of each image, such as :func:`is_wide`, shape (N,).
        batch_size: images of a global batch.
        seed: of the order of the batches.
        batches: global batches in a window.
    """

    def __init__(
        self,
        stream: IndexStream,
        groups: npt.NDArray[np.integer],
        batch_size: int,
        seed: int,
        batches: int = 16,
    ) -> None:
        if batch_size < 1 or batches < 1:
            raise NDSError(f"batch size and window must be positive, got {batch_size} and {batches}.")
        self._stream = stream
        self._groups = np.asarray(groups, dtype=np.int8)
        self._batch_size = batch_size
        self._batches = batches
        self._key = stream_key(seed, Purpose.BATCHES)

    def draw(self, start: int, stop: int) -> Ints:
        if stop <= start:
            return np.zeros(0, dtype=np.int64)
        size = self._batch_size * self._batches
        first, last = start // size, -(-stop // size)
        base = self._stream.draw(first * size, last * size)
        words = random_words(self._key, first * self._batches, (last - first) * self._batches)
        windows = [
            self._group(base[i * size : (i + 1) * size], words[i * self._batches : (i + 1) * self._batches])
            for i in range(last - first)
        ]
        return np.concatenate(windows)[start - first * size : stop - first * size]

    def _group(self, window: Ints, words: npt.NDArray[np.uint64]) -> Ints:
        by_group = window[np.argsort(self._groups[window], kind="stable")]
        order = np.argsort(words, kind="stable")
        return by_group.reshape(self._batches, self._batch_size)[order].ravel()
