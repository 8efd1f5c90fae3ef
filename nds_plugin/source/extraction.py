"""Lists of image files through a network: features that depend on the images, the network and the crop alone.

The images go through the network in groups of ``MICRO_BATCH`` that depend on nothing but their order,
since the last bits of a convolution depend on the size of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.images.crops import CenterCrops, crop_loader
from nds_plugin.images.networks import repeatable

MICRO_BATCH = 32  # images in one forward pass; our choice

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Extraction:
    """How features are computed.

    Attributes:
        network: uint8 crops (B, S, S, 3) to features (B, D), such as a
            :class:`~nds_plugin.images.backbones.FeatureNetwork`. Its attribute ``interpolation``, where it has
            one, says how crops are resized.
        crop_size: S in pixels.
        device: where the network runs; it is moved there.
        batch_size: images that a worker decodes at a time; rounded up to whole micro-batches.
        num_workers: processes that decode images; 0 for none.
        unit_length: whether to scale each image's features to length 1.

    Raises:
        NDSError: a number is out of range.
    """

    network: nn.Module
    crop_size: int
    device: str = "cpu"
    batch_size: int = 128
    num_workers: int = 0
    unit_length: bool = True

    def __post_init__(self) -> None:
        for name, low in (("crop_size", 1), ("batch_size", 1), ("num_workers", 0)):
            if (value := getattr(self, name)) < low:
                raise NDSError(f"features: {name} must be at least {low}, got {value}.")


class Extractor:
    """Runs lists of image files through a network."""

    def __init__(self, how: Extraction) -> None:
        self.device = torch.device(how.device)
        self.network = how.network.to(self.device).to(memory_format=torch.channels_last).eval()
        self.crop_size = how.crop_size
        self.batch_size = -(-how.batch_size // MICRO_BATCH) * MICRO_BATCH
        self.num_workers = how.num_workers
        self.unit_length = how.unit_length
        self.interpolation = str(getattr(how.network, "interpolation", "bilinear"))

    def run(self, paths: Sequence[str], progress: tqdm) -> tuple[Features, list[str]]:
        """Features (len(paths), D), NaN for an unreadable image, and the errors of those."""
        parts: list[Features] = []
        broken: list[str] = []
        crops = CenterCrops(paths, self.crop_size, self.interpolation)
        loader = crop_loader(crops, self.batch_size, self.num_workers, self.device)
        with torch.inference_mode(), repeatable():
            for start, batch in zip(range(0, len(paths), self.batch_size), loader):
                count = min(self.batch_size, len(paths) - start)
                part = self._batch(batch.crops, batch.rows - start, count)
                _refuse_non_finite(part)
                part[[row - start for row in batch.errors]] = np.nan
                parts.append(part)
                broken += batch.errors.values()
                progress.update(count)
        return np.concatenate(parts), broken

    def _batch(self, crops: torch.Tensor, slots: torch.Tensor, count: int) -> Features:
        """Features (count, D) of the crops, each of which keeps its slot whether others are broken or not."""
        filled = torch.zeros((count, self.crop_size, self.crop_size, 3), dtype=torch.uint8)
        if len(slots):
            filled[slots] = crops
        features = torch.cat([self._forward(part) for part in filled.split(MICRO_BATCH)])
        return features.cpu().numpy()

    def _forward(self, crops: torch.Tensor) -> torch.Tensor:
        count = len(crops)
        crops = crops.to(self.device)
        crops = nn.functional.pad(crops, (0, 0, 0, 0, 0, 0, 0, MICRO_BATCH - count))
        features = self.network(crops).float()[:count]
        return nn.functional.normalize(features, dim=1) if self.unit_length else features


def _refuse_non_finite(features: Features) -> None:
    if not np.isfinite(features).all():
        raise NDSError(
            "features: the feature network's outputs are not finite: its weights are broken, or are for "
            "another input."
        )
