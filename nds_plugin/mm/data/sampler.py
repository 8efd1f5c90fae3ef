"""The stream of a selection as a sampler of MMEngine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from nds_plugin.errors import NDSError
from nds_plugin.mm.data.drawable import Drawable, drawable
from nds_plugin.selection.placed import segmented
from nds_plugin.selection.sampler import PositionedSampler
from nds_plugin.selection.streams import IndexStream

Weights = npt.NDArray[np.float64]


class DrawnIndex(int):
    """A position in the dataset that also says where the stream drew it.

    Attributes:
        position: in the stream, over all ranks.
        place: of the image among those that can be drawn.
    """

    position: int
    place: int

    def __new__(cls, index: int, position: int, place: int) -> DrawnIndex:
        self = super().__new__(cls, index)
        self.position, self.place = position, place
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.position, self.place)


@DATA_SAMPLERS.register_module()
class NDSInfiniteSampler(Sampler[int]):
    """Endless positions of a dataset, drawn by a selection; every rank sees its share of one stream.

    Element n of the stream depends on the selection, the seed and n alone (and on the images of an
    iteration, where batches are grouped by orientation): not on ranks, workers or the order of the dataset.
    ``start`` and ``skip`` say where the next iteration over it begins; iterating changes nothing.

    Args:
        dataset: the dataset, as MMEngine hands it over.
        seed: as MMEngine hands it over; None: one that all ranks agree on.
        selection: path of a selection (parquet); None: every image, in shuffled epochs.
        batch_size: images of a batch on one rank, needed to group them and to start at an iteration;
            NDSIterBasedTrainLoop tells it, so that only other loops need it.
        aspect_ratio_grouping: batches of one orientation, decided in the stream; takes the place of
            AspectRatioBatchSampler, which a resumed run would find empty.

    Raises:
        NDSError: the selection cannot be read, or was made of other images than the dataset's.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int | None = None,
        selection: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        aspect_ratio_grouping: bool = True,
    ) -> None:
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.seed: int = int(sync_random_seed() if seed is None else seed)
        self.selection = os.fspath(selection) if selection else None
        self.drawable: Drawable = drawable(dataset, self.selection)
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.updates: list[tuple[int, Weights]] = []
        self._start = 0
        self._batch_size: int | None = None
        self._stream: IndexStream | None = None
        if batch_size is not None:
            self.set_batch_size(batch_size)

    def __len__(self) -> int:
        """One rank's share of the images that can be drawn; the stream itself has no end."""
        return -(-len(self.drawable) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        shares = PositionedSampler(self.stream, rank=self.rank, world_size=self.world_size, start=self._start)
        for position, place in shares:
            yield DrawnIndex(int(self.drawable.order[place]), position, place)

    @property
    def total_batch_size(self) -> int:
        """Images of an iteration over all ranks.

        Raises:
            NDSError: nobody has said how many a batch has.
        """
        if self._batch_size is None:
            raise NDSError(
                "NDSInfiniteSampler does not know the batch size: train with train_cfg=dict(type='NDSIterBasedTrainLoop', "
                "max_iters=...), which tells it, or give sampler=dict(batch_size=...), that of train_dataloader."
            )
        return self._batch_size * self.world_size

    @property
    def stream(self) -> IndexStream:
        """The stream of places in ``drawable``, the same on all ranks."""
        if self._stream is None:
            self._stream = self._built()
        return self._stream

    def set_batch_size(self, batch_size: int) -> None:
        """Say how many images a batch of one rank has.

        Raises:
            NDSError: another number was given before.
        """
        if batch_size < 1 or self._batch_size not in (None, batch_size):
            raise NDSError(
                f"NDSInfiniteSampler: expected batch_size to be that of train_dataloader, {batch_size}, got {self._batch_size}: "
                "leave it out of the sampler's config."
            )
        self._batch_size = batch_size

    def start(self, iteration: int) -> None:
        """Begin the next iteration over the sampler with the batch of a training iteration."""
        self._start = iteration * self.total_batch_size

    def skip(self, num_samples: int) -> None:
        """Begin the next iteration over the sampler after this many elements of this rank's share (MMEngine's contract)."""
        self._start = num_samples * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Part of MMEngine's contract; an endless stream has no epochs."""

    def reseed(self, seed: int) -> None:
        """Draw by another seed: that of the run which is resumed."""
        self.seed, self._stream = int(seed), None

    def reweight(self, updates: Sequence[tuple[int, Weights]]) -> None:
        """Draw by other cluster weights from given positions of the stream on; takes the place of earlier updates.

        Raises:
            NDSError: the selection is a subset, or has another number of clusters.
        """
        kept, self.updates = self.updates, [(int(n), np.asarray(w, np.float64)) for n, w in updates]
        try:
            self._stream = self._built()
        except NDSError:
            self.updates = kept
            raise

    def identity(self) -> dict[str, Any]:
        """What decides the draw: a resumed run must have the same."""
        return {
            "selection": self.drawable.key,
            "seed": self.seed,
            "images": len(self.drawable),
            "batch_size": self.total_batch_size,
            "aspect_ratio_grouping": self.aspect_ratio_grouping,
        }

    def _built(self) -> IndexStream:
        placed = self.drawable.placed
        grouping = (self.drawable.wide, self.total_batch_size) if self.aspect_ratio_grouping else None
        return segmented(placed.stream(self.seed), placed, self.updates, self.seed, grouping)
