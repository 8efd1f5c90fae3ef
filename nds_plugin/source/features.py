"""Features of a source's images, for clustering: extracted once, resumable, whatever the batch size.

The images go through the network in groups of ``MICRO_BATCH`` that depend on nothing but the
index, since the last bits of a convolution depend on the size of its batch.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write, content_hash
from nds_plugin.images.backbones import FeatureNetwork
from nds_plugin.images.crops import CenterCrops, crop_loader
from nds_plugin.images.networks import repeatable
from nds_plugin.images.reading import ImageError, load_image
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partitioning import MAX_UNREADABLE, check_readable

MICRO_BATCH = 32  # images in one forward pass; our choice
SHARD_SIZE = 20_000  # images in one file of the cache; a multiple of MICRO_BATCH
_NAMED_IN_LOG = 20
_SHARD_NAME = re.compile(r"[0-9a-f]{16}_\d{5}\.npy$")

logger = logging.getLogger(__name__)

Features = npt.NDArray[np.float32]


def extract_features(
    index: SourceIndex,
    network: nn.Module,
    crop_size: int,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 128,
    num_workers: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    unit_length: bool = True,
) -> tuple[Features, npt.NDArray[np.bool_]]:
    """L2-normalised features of the central crop of every image, in the index's order.

    They depend on the images, the network and the crop size only, and on neither batch size nor
    number of workers.

    Args:
        index: N images.
        network: uint8 crops (B, S, S, 3) to features (B, D), such as a
            :class:`~nds_plugin.images.backbones.FeatureNetwork`; it is moved to ``device``. Its attribute
            ``interpolation``, where it has one, says how crops are resized.
        crop_size: S in pixels.
        device: where the network runs.
        batch_size: images that a worker decodes at a time; rounded up to whole micro-batches.
        num_workers: processes that decode images; 0 for none.
        cache_dir: where finished shards are kept, so that a killed extraction goes on where it
            was. Shards of other inputs in it are removed. By default nothing is kept.
        max_unreadable: share of the images that may be unreadable; never all of them.
        unit_length: whether to scale each image's features to length 1.

    Returns:
        Features of shape (N, D), zeros for an image that cannot be read, and whether each image
        could be read, shape (N,).

    Raises:
        NDSError: more images than ``max_unreadable`` allows cannot be read, the network's features are not
            finite, or a number is out of range.
    """
    for name, value, low in (
        ("crop_size", crop_size, 1),
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
    ):
        if value < low:
            raise NDSError(f"features: {name} must be at least {low}, got {value}.")
    paths = index.column("file_name").tolist()
    if isinstance(network, FeatureNetwork):
        network.dimension(crop_size)  # a network of one size is refused in a line, before the images are read
    key = "" if cache_dir is None else features_key(index, network, crop_size, unit_length)
    cache = None if cache_dir is None else _Cache(cache_dir, key)
    extractor = _Extractor(network, crop_size, torch.device(device), batch_size, num_workers, unit_length)
    features, readable = np.empty((0, 0), dtype=np.float32), np.ones(len(paths), dtype=bool)
    with tqdm(total=len(paths), desc="features", unit="image", disable=None) as progress:
        for number, start in enumerate(range(0, len(paths), SHARD_SIZE)):
            rows = slice(start, min(start + SHARD_SIZE, len(paths)))
            kept = None if cache is None else cache.load(number, paths[rows])
            shard, errors = (kept, []) if kept is not None else extractor.run(paths[rows], progress)
            readable[rows] = ~np.isnan(shard[:, 0])
            # Checked before it is kept: a folder that is not mounted must not end in the cache.
            check_readable(readable, max_unreadable, *errors[:1])
            if kept is not None:
                progress.update(len(kept))
            elif cache is not None:
                cache.save(number, shard)
            if start == 0:
                features = np.empty((len(paths), shard.shape[1]), dtype=np.float32)
            features[rows] = np.where(readable[rows, None], shard, 0)
    _log_unreadable(readable, paths)
    return features, readable


def features_key(index: SourceIndex, network: nn.Module, crop_size: int, unit_length: bool = True) -> str:
    """Hash of everything that features are made from: images, network, crop."""
    scaled = [] if unit_length else ["not scaled"]
    return content_hash([index.hash, *_made_of(network), crop_size, MICRO_BATCH, SHARD_SIZE, *scaled])


def network_hash(network: nn.Module) -> str:
    """Hash of a network's weights and of what it says of itself."""
    return content_hash(_made_of(network))


def _made_of(network: nn.Module) -> list[Any]:
    """The weights' SHA-256, and what the network says of itself (``identity()``, where it has that)."""
    digest = hashlib.sha256()
    # Before networks had names, a FeatureNetwork's body was called so: its keys stay what they were.
    state = {re.sub(r"^body\.", "resnet.", name): value for name, value in network.state_dict().items()}
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    identity = getattr(network, "identity", dict)
    return [digest.hexdigest(), identity()]


def _log_unreadable(readable: npt.NDArray[np.bool_], paths: Sequence[str]) -> None:
    broken = [paths[row] for row in np.flatnonzero(~readable).tolist()]
    if broken:
        more = f" and {len(broken) - _NAMED_IN_LOG} more" if len(broken) > _NAMED_IN_LOG else ""
        named = ", ".join(broken[:_NAMED_IN_LOG])
        logger.warning("%d of %d images cannot be read: %s%s", len(broken), len(paths), named, more)


class _Extractor:
    """Runs lists of image files through a network."""

    def __init__(
        self,
        network: nn.Module,
        crop_size: int,
        device: torch.device,
        batch_size: int,
        num_workers: int,
        unit_length: bool,
    ) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.crop_size = crop_size
        self.device = device
        self.batch_size = -(-batch_size // MICRO_BATCH) * MICRO_BATCH
        self.num_workers = num_workers
        self.unit_length = unit_length
        self.interpolation = str(getattr(network, "interpolation", "bilinear"))

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


class _Cache:
    """Finished shards on disk, one ``.npy`` file each, named by the key of their inputs."""

    def __init__(self, folder: str | os.PathLike[str], key: str) -> None:
        self.folder = Path(folder)
        self.prefix = key[:16]
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if _SHARD_NAME.match(path.name) and not path.name.startswith(self.prefix):
                    logger.info("removing %s: it is of other images, another network or crop", path)
                    path.unlink(missing_ok=True)

    def load(self, number: int, paths: Sequence[str]) -> Features | None:
        """A finished shard, or None; also None where an image that could not be read now can."""
        path = self._path(number)
        try:
            shard = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError) as error:
            logger.warning("%s cannot be read (%s) and is made again", path, error)
            return None
        if shard.dtype != np.float32 or shard.ndim != 2 or len(shard) != len(paths):
            logger.warning("%s has another shape than its images and is made again", path)
            return None
        broken = np.flatnonzero(np.isnan(shard[:, 0])).tolist()
        return None if any(_can_be_read(paths[row]) for row in broken) else shard

    def save(self, number: int, shard: Features) -> None:
        """Keep a finished shard."""
        # Not straight into the file: numpy's own writing does not say that it was the disk that is full.
        buffer = io.BytesIO()
        np.save(buffer, shard, allow_pickle=False)
        with atomic_write(self._path(number)) as file:
            file.write(buffer.getbuffer())

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.prefix}_{number:05d}.npy"


def _can_be_read(path: str) -> bool:
    try:
        load_image(path)
    except ImageError:
        return False
    return True
