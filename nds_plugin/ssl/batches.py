"""Batches of a stream for one process: which images, in which order, and the random numbers of their views.

All of it is a function of (selection, seed, iteration): element n of the stream is the same on any number of
processes, and an interrupted run goes on with the batch that the unbroken one would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from nds_plugin.errors import NDSError
from nds_plugin.selection.counter_rng import Purpose, random_words, stream_key, to_unit
from nds_plugin.selection.streams import IndexStream
from nds_plugin.ssl.augment import WORDS
from nds_plugin.ssl.pixels import MappedRows

NUMBERS = 2 * WORDS  # random numbers of an image: two views
_ORDER = WORDS - 1  # which of them orders the batch for the key network


@dataclass(frozen=True)
class View:
    """Images that a network of this process looks at.

    Attributes:
        pixels: uint8 of shape (B, H, W, 3).
        units: random numbers in [0, 1), shape (B, NUMBERS).
        labels: of the images; empty where they have none.
    """

    pixels: torch.Tensor
    units: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Batch(View):
    """This process's part of one iteration.

    Attributes:
        other: images for the key network, those of the whole batch dealt anew; None where there is none.
        own: place of each image in the whole batch.
        keys_at: place of each image of the whole batch among the keys of all processes.
    """

    own: torch.Tensor
    other: View | None = None
    keys_at: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""

        def moved(view: View) -> dict[str, torch.Tensor]:
            names = ("pixels", "units", "labels")
            return {name: getattr(view, name).to(device, non_blocking=True) for name in names}

        other = None if self.other is None else View(**moved(self.other))
        keys_at = None if self.keys_at is None else self.keys_at.to(device)
        return replace(self, **moved(self), own=self.own.to(device), other=other, keys_at=keys_at)

    def pin_memory(self) -> Batch:
        """Called by the loader where batches go to a GPU."""
        other = self.other
        pinned = (
            None if other is None else View(other.pixels.pin_memory(), other.units.pin_memory(), other.labels)
        )
        return replace(self, pixels=self.pixels.pin_memory(), units=self.units.pin_memory(), other=pinned)


def units(seed: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """The random numbers of positions start .. stop of a stream, shape (stop - start, NUMBERS)."""
    key = stream_key(seed, Purpose.VIEWS)
    words = random_words(key, start * NUMBERS, (stop - start) * NUMBERS)
    return to_unit(words).astype(np.float32).reshape(-1, NUMBERS)


def share_of(rank: int, world_size: int, size: int, groups: int) -> npt.NDArray[np.int64]:
    """Places in a batch that a process has, those of one group after the other.

    The process has every ``world_size``-th image, as of a :class:`~nds_plugin.selection.sampler.StreamSampler`; group g is
    every ``groups``-th from g on, so that the groups are the same on any number of processes.
    """
    mine = np.arange(rank, size, world_size)
    return mine.reshape(-1, groups // world_size).T.ravel()


class Batches(IterableDataset[Batch]):
    """The batches of one process from an iteration on.

    Args:
        rows: the images that the stream draws from.
        stream: of positions in them.
        seed: of the views.
        size: images per iteration, of all processes.
        first, last: iterations.
        rank, world_size: this process among all.
        groups: of batch norms, of all processes.
        keys: whether a key network looks at the batch, too.
        labels: of the images.

    Raises:
        NDSError: groups that the batch or the processes do not divide.
    """

    def __init__(
        self,
        rows: MappedRows,
        stream: IndexStream,
        seed: int,
        size: int,
        first: int,
        last: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        groups: int = 1,
        keys: bool = False,
        labels: npt.NDArray[np.integer] | None = None,
    ) -> None:
        check_groups(size, groups, world_size)
        self.rows, self.stream, self.seed, self.size = rows, stream, seed, size
        self.first, self.last, self.keys = first, last, keys
        self.labels = None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64))
        self._shares = [share_of(r, world_size, size, groups) for r in range(world_size)]
        self._own = self._shares[rank]
        self._mine = slice(rank * len(self._own), (rank + 1) * len(self._own))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for iteration in range(self.first + start, self.last, step):
            yield self.batch(iteration)

    def batch(self, iteration: int) -> Batch:
        """The batch of an iteration."""
        start = iteration * self.size
        indices = self.stream.draw(start, start + self.size)
        numbers = units(self.seed, start, start + self.size)
        view = self._view(indices, numbers, self._own)
        batch = Batch(view.pixels, view.units, view.labels, torch.from_numpy(self._own))
        if not self.keys:
            return batch
        order = np.argsort(numbers[:, _ORDER], kind="stable")[np.concatenate(self._shares)]
        keys_at = np.empty_like(order)
        keys_at[order] = np.arange(len(order))
        other = self._view(indices, numbers, order[self._mine])
        return replace(batch, other=other, keys_at=torch.from_numpy(keys_at))

    def _view(
        self, indices: npt.NDArray[np.int64], numbers: npt.NDArray[np.float32], places: npt.NDArray[np.int64]
    ) -> View:
        labels = torch.empty(0) if self.labels is None else self.labels[indices[places]]
        return View(self.rows.rows(indices[places]), torch.from_numpy(numbers[places]), labels)

    def loader(self, workers: int, device: torch.device) -> DataLoader[Batch]:
        """The batches in order, made by so many processes ahead of the training; by itself with 0."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # an own one: else the loader draws from torch's global one
        )


def check_groups(size: int, groups: int, world_size: int) -> None:
    """Refuse groups of batch norms that the batch or the processes do not divide.

    Raises:
        NDSError: they do not.
    """
    if groups % world_size:
        raise NDSError(
            f"PRETRAIN.BN_GROUPS {groups} cannot be shared by {world_size} processes: take a multiple of {world_size}, or "
            "another number of processes."
        )
    if size % groups or size // groups < 2:
        raise NDSError(
            f"PRETRAIN.BATCH_SIZE {size} cannot be cut into {groups} groups of equal size and at least 2 images: take a "
            "multiple, or other PRETRAIN.BN_GROUPS."
        )
