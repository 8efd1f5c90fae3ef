"""The map-style dataset under a training loader: seeds augmentation by position, replaces what cannot be read."""

from __future__ import annotations

import abc
import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.selection.config import LoaderConfig
from nds_plugin.selection.counter_rng import Purpose, stream_key
from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.selection.streams import redraw
from nds_plugin.settings import named

logger = logging.getLogger(__name__)

_ATTEMPTS = 50


class DrawnImages(Dataset[Any], abc.ABC):
    """Images addressed by where the stream drew them.

    Augmentation is seeded by the position in the stream, so that an image looks the same on any
    number of ranks and workers and after a resume. An image that cannot be read, or for which the
    host's pipeline gives None, is replaced by another of the same cluster: always by one image, or in
    a stream anew each time that it is drawn and by its probabilities. The seed alone decides.

    Args:
        cluster: cluster of each image, shape (N,); those below 0 are never drawn.
        seed: 0 or more.
        max_unreadable: share of the drawable images that may be unreadable.
        setting: what the user sets that share by, for messages.
        placed: what the images are drawn from, where that is a selection.

    Raises:
        NDSError: a share that is none.
    """

    def __init__(
        self,
        cluster: npt.NDArray[np.integer],
        seed: int,
        max_unreadable: float,
        setting: str,
        placed: PlacedSelection | None = None,
    ) -> None:
        named(LoaderConfig, "max_unreadable").check(max_unreadable, setting)
        self.cluster = np.asarray(cluster, dtype=np.int32)
        self._seed = seed
        self._drawable = int((self.cluster >= 0).sum())
        self._limit = int(max_unreadable * self._drawable)
        self._setting = setting
        self._anew = placed is not None and placed.mode == "stream"
        self._p = placed.p if placed is not None and self._anew else None
        # Shared with the loader's workers: one flag an image, set where it could not be read.
        self.unreadable = torch.zeros(len(self.cluster), dtype=torch.uint8).share_memory_()

    @abc.abstractmethod
    def load(self, index: int) -> Any:
        """The training example of an image, or None."""

    @abc.abstractmethod
    def fault(self, index: int) -> ImageError | None:
        """Why an image's file cannot be used; None if it can, or if that cannot be told."""

    @abc.abstractmethod
    def file_name(self, index: int) -> str:
        """The file of an image, for messages."""

    def drawn(self, position: int, index: int) -> tuple[Any, int]:
        """The training example for a position of the stream, and the image that it is of."""
        tried = [index]
        while (example := self._loaded(position, tried[-1])) is None:
            current = self._another(position, tried)
            if current is None:
                raise NDSError(
                    f"{len(tried)} images drawn in a row from cluster {int(self.cluster[index])} could not be read, "
                    f"last {self.file_name(tried[-1])}: check the image files of the source."
                )
            tried.append(current)
        return example, tried[-1]

    def _another(self, position: int, tried: list[int]) -> int | None:
        """The image in place of one that was drawn and could not be read, nor could others since; None: no more."""
        members = np.flatnonzero(self.cluster == self.cluster[tried[0]])
        weights = None
        if self._p is not None:
            members = np.setdiff1d(members[self._p[members] > 0], tried)  # one may be most of its cluster
            weights = self._p[members]
        if len(members) == 0 or len(tried) == _ATTEMPTS:
            return None
        return redraw(members, self._seed, position if self._anew else tried[0], len(tried) - 1, weights)

    def _loaded(self, position: int, index: int) -> Any:
        try:
            with augmentation_seed(self._seed, position):
                return self.load(index)
        except ImageError as error:
            self._count(index, error)
        except Exception as error:
            # Of a pipeline that is not our own, which says itself when it was the file.
            fault = None if isinstance(error, NDSError) else self.fault(index)
            if fault is None:
                raise
            self._count(index, fault)
        return None

    def _count(self, index: int, error: ImageError) -> None:
        if self.unreadable[index]:
            return
        self.unreadable[index] = 1
        broken = int(self.unreadable.sum())
        logger.warning("%s Another image of its cluster takes its place (%d so far).", error, broken)
        if broken > self._limit:
            raise NDSError(
                f"{broken} of {self._drawable} images cannot be read, more than {self._setting} "
                f"allows ({self._limit}); last: {error}"
            )


@contextlib.contextmanager
def augmentation_seed(seed: int, position: int) -> Iterator[None]:
    """Seed the generators that augmentations draw from; restore them afterwards."""
    key = int(stream_key(seed, Purpose.AUGMENTATION, position)[0])
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    np.random.seed(key % 2**32)
    random.seed(key)
    # Not torch.manual_seed: for the GPUs, which no loader draws on, it writes down a whole call stack each time.
    torch.default_generator.manual_seed(key % 2**63)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])
