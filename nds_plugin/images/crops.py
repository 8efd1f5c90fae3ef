"""From image files to batches of crops, in loader workers, the same for any number of them.

Element n of a training stream depends on (seed, cluster, n) and on nothing else, so that the
number of workers never changes an expert.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from nds_plugin.errors import NDSError
from nds_plugin.images.crop_geometry import random_crop, read_center_crop
from nds_plugin.images.reading import ImageError, load_image

UNREADABLE_OF_CLUSTER = 0.1  # share of a cluster's images; our choice
CACHE_BYTES = 512 << 20  # decoded photos kept in memory, over all workers; our choice
_ATTEMPTS = 64
_ORDER, _CROP, _REPLACE = 0, 1, 2


@dataclass(frozen=True)
class CropBatch:
    """Crops of one batch and the images that could not be read on the way.

    Attributes:
        crops: uint8, shape (B, S, S, 3).
        rows: row of each crop's image, int64, shape (B,).
        errors: row -> message of each image that could not be read.
    """

    crops: torch.Tensor
    rows: torch.Tensor
    errors: dict[int, str]

    def pin_memory(self) -> CropBatch:
        """The batch in page-locked memory; torch's loader calls this when it feeds a GPU."""
        return CropBatch(self.crops.pin_memory(), self.rows.pin_memory(), self.errors)


@dataclass(frozen=True)
class _Item:
    crop: npt.NDArray[np.uint8] | None
    row: int
    errors: dict[int, str] = field(default_factory=dict)


def _collate(items: list[_Item]) -> CropBatch:
    errors: dict[int, str] = {}
    for item in items:
        errors.update(item.errors)
    crops = [(torch.from_numpy(item.crop), item.row) for item in items if item.crop is not None]
    empty = torch.empty(0, dtype=torch.uint8)
    stacked = torch.stack([crop for crop, _ in crops]) if crops else empty
    return CropBatch(stacked, torch.tensor([row for _, row in crops], dtype=torch.int64), errors)


class RandomCrops(Dataset[_Item]):
    """The training stream of one cluster: random crops of its images, epoch after epoch.

    Args:
        paths: the cluster's image files.
        size: side of the crops in pixels.
        length: elements of the stream.
        seed, stream: name the stream; two clusters never share one.
        cache_bytes: decoded photos to keep in memory, which saves time and changes nothing.
    """

    def __init__(
        self, paths: Sequence[str], size: int, length: int, seed: int, stream: int, cache_bytes: int = 0
    ) -> None:
        # One Arrow buffer instead of millions of Python strings, which every worker would copy.
        self.paths = pa.array(list(paths), type=pa.large_string())
        self.size, self.length = size, length
        self.key = (seed, stream)
        self.cache_bytes = cache_bytes
        self._cache: dict[int, Image.Image] = {}
        self._cached = 0
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.length

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.key, *purpose])))

    def row(self, position: int) -> int:
        """The image at a position: every epoch is a fresh permutation of the cluster."""
        epoch, offset = divmod(position, len(self.paths))
        if self._order[0] != epoch:
            self._order = (epoch, self._rng(_ORDER, epoch).permutation(len(self.paths)))
        return int(self._order[1][offset])

    def __getitem__(self, position: int) -> _Item:
        row = self.row(position)
        errors: dict[int, str] = {}
        for attempt in range(_ATTEMPTS):
            try:
                image = self._load(row)
            except ImageError as error:
                errors[row] = str(error)
                row = int(self._rng(_REPLACE, position, attempt).integers(len(self.paths)))
                continue
            return _Item(random_crop(image, self.size, self._rng(_CROP, position)), row, errors)
        return _Item(None, row, errors)

    def _load(self, row: int) -> Image.Image:
        if row in self._cache:
            return self._cache[row]
        image = load_image(self.paths[row].as_py(), self.size)
        used = 3 * image.width * image.height
        if self._cached + used <= self.cache_bytes:
            self._cache[row] = image
            self._cached += used
        return image


class CenterCrops(Dataset[_Item]):
    """The one deterministic crop of each image that all experts are scored on."""

    def __init__(self, paths: Sequence[str], size: int, interpolation: str = "bilinear") -> None:
        self.paths = pa.array(list(paths), type=pa.large_string())
        self.size = size
        self.interpolation = interpolation

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> _Item:
        try:
            return _Item(read_center_crop(self.paths[row].as_py(), self.size, self.interpolation), row)
        except ImageError as error:
            return _Item(None, row, {row: str(error)})


def crop_loader(
    dataset: Dataset[_Item], batch_size: int, num_workers: int, device: torch.device
) -> Iterator[CropBatch]:
    """Batches in the order of the dataset; elements without a crop are left out."""
    return iter(
        DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            # An own generator: else the loader draws from torch's global one.
            generator=torch.Generator(),
        )
    )


class Unreadable:
    """The images of a cluster that could not be read, with the limit on how many are borne.

    Args:
        what: how a message calls the images, as "cluster 3".
        paths: the files.
    """

    def __init__(self, what: str, paths: Sequence[str]) -> None:
        self.what, self.paths = what, paths
        self.errors: dict[int, str] = {}

    def add(self, batch: CropBatch, wanted: int) -> None:
        """Count a batch's errors.

        Raises:
            NDSError: over the limit, or a batch of fewer crops than wanted.
        """
        self.errors.update(batch.errors)
        if len(self.errors) > UNREADABLE_OF_CLUSTER * len(self.paths) or len(batch.crops) < wanted:
            raise NDSError(
                f"{self.what}: {len(self.errors)} of its {len(self.paths)} images cannot be read, more than "
                f"{UNREADABLE_OF_CLUSTER:.0%}; first: {next(iter(self.errors.values()))} Repair or remove them."
            )

    def names(self) -> list[str]:
        """Base names of the unreadable files, in order."""
        return [os.path.basename(self.paths[row]) for row in sorted(self.errors)]
