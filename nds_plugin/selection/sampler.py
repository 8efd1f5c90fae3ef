"""A torch sampler over an index stream: what one rank sees of it, from any position on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler, get_worker_info

from nds_plugin.errors import NDSError
from nds_plugin.selection.streams import IndexStream

_FIRST_BLOCK, _LARGEST_BLOCK = 1024, 1 << 16


class StreamSampler(Sampler[int]):
    """Endless indices ``stream[start:][rank::world_size]``.

    Iterating never changes the object: Detectron2 iterates a sampler inside every loader worker,
    several times in each.

    Args:
        stream: the stream shared by all ranks.
        rank, world_size: this process among those that share the stream.
        start: first element of the stream; iteration x images per batch in a resumed run.
        interleave: the per-rank batch size, where the host framework deals single elements out
            to its loader workers (Detectron2 v0.6) instead of whole batches. The elements are
            then dealt so that the loader's batches are those of a loader without workers.

    Raises:
        NDSError: rank, world size or start out of range.
    """

    def __init__(
        self,
        stream: IndexStream,
        *,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        interleave: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise NDSError(f"rank must be 0 to world_size - 1 = {world_size - 1}, got {rank}.")
        if start < 0 or start % world_size:
            raise NDSError(f"start must be a multiple of the world size {world_size}, got {start}.")
        self.stream = stream
        self._rank = rank
        self._world_size = world_size
        self._start = start
        self._interleave = interleave

    def __iter__(self) -> Iterator[int]:
        for _, indices in self._blocks():
            yield from indices.tolist()

    def _blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """This rank's share as arrays: (positions in the stream, indices)."""
        worker = get_worker_info()
        deal = (worker.num_workers, self._interleave) if worker and self._interleave else (1, 1)
        unit = self._world_size * deal[0] * deal[1]
        start, block = self._start, _FIRST_BLOCK
        while True:
            stop = start + unit * max(1, block // unit)
            mine = slice(self._rank, None, self._world_size)
            yield (
                _deal(np.arange(start, stop)[mine], *deal),
                _deal(self.stream.draw(start, stop)[mine], *deal),
            )
            start, block = stop, min(2 * block, _LARGEST_BLOCK)


class PositionedSampler(StreamSampler):
    """The same, but each element is ``(position in the stream, index)``.

    For datasets whose augmentation is seeded by the position.
    """

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        for positions, indices in self._blocks():
            yield from zip(positions.tolist(), indices.tolist())


def _deal(indices: npt.NDArray[np.int64], workers: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Order elements so that every ``workers``-th, taken from w on, fills the batches w, w + workers, ..."""
    return indices.reshape(-1, workers, batch_size).transpose(0, 2, 1).reshape(-1)
