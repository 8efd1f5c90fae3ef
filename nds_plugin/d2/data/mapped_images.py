"""The map-style dataset under the loader: maps a record, replaces what cannot be read, says what it drew."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import Dataset

from nds_plugin.d2.data.mapper import check_image, read_image
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.selection.counter_rng import Purpose, stream_key
from nds_plugin.selection.streams import redraw

logger = logging.getLogger(__name__)

_ATTEMPTS = 50


class MappedImages(Dataset[dict[str, Any]]):
    """Dataset dicts behind a mapper, addressed by ``(position in the stream, index)``.

    Augmentation is seeded by the position, so that an image looks the same on any number of
    ranks and workers and after a resume. An image that any mapper cannot read, or for which it
    returns None, is replaced by another of the same cluster, decided by the seed alone.

    Each mapped dict also gets ``nds_drawn`` (the index that the stream gave), ``nds_index`` (the
    one that was read) and ``nds_cluster``.

    Args:
        dicts: gives Detectron2's dict of a position, a fresh one each time.
        mapper: dict to training example.
        cluster: cluster of each image, shape (N,); those below 0 are never drawn.
        seed: 0 or more.
        max_unreadable: share of the drawable images that may be unreadable.
    """

    def __init__(
        self,
        dicts: Any,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        cluster: npt.NDArray[np.integer],
        seed: int,
        max_unreadable: float = 0.01,
    ) -> None:
        if len(dicts) != len(cluster):
            raise NDSError(f"{len(dicts)} images but {len(cluster)} cluster numbers: they must match.")
        self._records = dicts
        self._mapper = PicklableWrapper(mapper)  # a lambda, too, can go to a spawned worker
        self.cluster = np.asarray(cluster, dtype=np.int32)
        self._seed = seed
        self._drawable = int((self.cluster >= 0).sum())
        self._limit = int(max_unreadable * self._drawable)
        # Shared with the loader's workers: one flag an image, set where it could not be read.
        self.unreadable = torch.zeros(len(dicts), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, Any]:
        position, index = drawn
        current = index
        for attempt in range(_ATTEMPTS):
            mapped = self._map(position, current)
            if mapped is not None:
                extra = {"nds_drawn": index, "nds_index": current, "nds_cluster": int(self.cluster[index])}
                return {**mapped, **extra}
            members = np.flatnonzero(self.cluster == self.cluster[index])
            current = redraw(members, self._seed, index, attempt)
        raise NDSError(
            f"{_ATTEMPTS} images drawn in a row from cluster {int(self.cluster[index])} could not be read, "
            f"last {self._records[current].get('file_name')}: check the image files of the source."
        )

    def _map(self, position: int, index: int) -> dict[str, Any] | None:
        record: dict[str, Any] = {}
        try:
            record = self._records[index]  # a fresh dict: unpacked or decoded just now
            with augmentation_seed(self._seed, position):
                return self._mapper(record)
        except ImageError as error:
            self._count(index, error)
        except Exception as error:
            # Of another mapper than NDSDatasetMapper, which says itself when it was the file.
            fault = None if isinstance(error, NDSError) else _image_fault(record)
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
                f"{broken} of {self._drawable} images cannot be read, more than NDS.LOADER.MAX_UNREADABLE "
                f"allows ({self._limit}); last: {error}"
            )


def _image_fault(record: dict[str, Any]) -> ImageError | None:
    """Why a dataset dict's image file cannot be used; None if it can. Reads the file."""
    try:
        check_image(dict(record), read_image(record["file_name"], "BGR"))
    except ImageError as error:
        return error
    except Exception:  # a dict without what a mapper needs, say: the mapper's error stands
        return None
    return None


@contextlib.contextmanager
def augmentation_seed(seed: int, position: int) -> Iterator[None]:
    """Seed the generators that Detectron2's augmentations draw from; restore them afterwards."""
    key = int(stream_key(seed, Purpose.AUGMENTATION, position)[0])
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(key % 2**32)
    random.seed(key)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key % 2**63)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
