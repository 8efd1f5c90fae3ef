"""Features of a source's images, for clustering: extracted once, resumable, whatever the batch size."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn
from tqdm import tqdm

from nds_plugin.engine.executor import Executor, LocalExecutor
from nds_plugin.files.artifacts import content_hash
from nds_plugin.images.backbones import FeatureNetwork
from nds_plugin.source.extraction import MICRO_BATCH, Extraction, Extractor, Features
from nds_plugin.source.feature_shards import FeatureShards, make_feature_shards
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partitioning import UNREADABLE_OF_SOURCE, check_readable

SHARD_SIZE = 4096  # images in one file of the cache; a multiple of MICRO_BATCH
_IN_KEY = 20_000  # SHARD_SIZE as it was when it decided the key; it decides nothing
_NAMED_IN_LOG = 20

logger = logging.getLogger(__name__)


def extract_features(
    index: SourceIndex,
    network: nn.Module,
    crop_size: int,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 128,
    num_workers: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    max_unreadable: float = UNREADABLE_OF_SOURCE,
    unit_length: bool = True,
) -> tuple[Features, npt.NDArray[np.bool_]]:
    """L2-normalised features of the central crop of every image, in the index's order, in memory.

    They depend on the images, the network and the crop size only, and on neither batch size nor
    number of workers.

    Args:
        index: N images.
        network, crop_size, device, batch_size, num_workers, unit_length: see
            :class:`~nds_plugin.source.extraction.Extraction`.
        cache_dir: where finished shards are kept, so that a killed extraction goes on where it
            was. Shards of other inputs in it are removed. By default nothing is kept.
        max_unreadable: share of the images that may be unreadable; never all of them.

    Returns:
        Features of shape (N, D), zeros for an image that cannot be read, and whether each image
        could be read, shape (N,).

    Raises:
        NDSError: more images than ``max_unreadable`` allows cannot be read, the network's features are not
            finite, or a number is out of range.
    """
    how = Extraction(network, crop_size, str(device), batch_size, num_workers, unit_length)
    if cache_dir is not None:
        return feature_shards(index, how, cache_dir, SHARD_SIZE, max_unreadable=max_unreadable).load()
    _check_crops(how)
    paths = index.column("file_name").tolist()
    with tqdm(total=len(paths), desc="features", unit="image", disable=None) as progress:
        features, errors = Extractor(how).run(paths, progress)
    readable = ~np.isnan(features[:, 0])
    check_readable(readable, max_unreadable, *errors[:1])
    features[~readable] = 0
    log_unreadable(readable, index.table.column("file_name"))
    return features, readable


def feature_shards(
    index: SourceIndex,
    how: Extraction,
    cache_dir: str | os.PathLike[str],
    shard_size: int,
    *,
    max_unreadable: float = UNREADABLE_OF_SOURCE,
    executor: Executor | None = None,
) -> FeatureShards:
    """The same features in files, by an executor; never more than a shard is in memory.

    Args:
        index: N images.
        how: the features are computed.
        cache_dir: where finished shards are kept; those of other inputs in it are removed.
        shard_size: images in a shard, a multiple of ``MICRO_BATCH``.
        max_unreadable: share of the images that may be unreadable; never all of them.
        executor: who computes them; by default this process.

    Raises:
        NDSError: as :func:`extract_features`, or a shard failed repeatedly.
    """
    _check_crops(how)
    key = features_key(index, how.network, how.crop_size, how.unit_length)
    paths = index.table.column("file_name")
    executor = executor or LocalExecutor(device=how.device)
    found = make_feature_shards(paths, how, key, Path(cache_dir), shard_size, max_unreadable, executor)
    readable = found.readable()
    check_readable(readable, max_unreadable)
    if executor.processes.rank == 0 and not readable.all():
        log_unreadable(readable, index.table.column("file_name"))
    return found


def _check_crops(how: Extraction) -> None:
    if isinstance(how.network, FeatureNetwork):
        # A network of one size is refused in a line, before the images are read.
        how.network.dimension(how.crop_size)


def features_key(index: SourceIndex, network: nn.Module, crop_size: int, unit_length: bool = True) -> str:
    """Hash of everything that features are made from: images, network, crop."""
    scaled = [] if unit_length else ["not scaled"]
    return content_hash([index.hash, *_made_of(network), crop_size, MICRO_BATCH, _IN_KEY, *scaled])


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


def log_unreadable(readable: npt.NDArray[np.bool_], paths: pa.ChunkedArray) -> None:
    """Name the images that cannot be read, of many only the first."""
    rows = np.flatnonzero(~readable)
    if len(rows):
        more = f" and {len(rows) - _NAMED_IN_LOG} more" if len(rows) > _NAMED_IN_LOG else ""
        named = ", ".join(paths[int(row)].as_py() for row in rows[:_NAMED_IN_LOG])
        logger.warning("%d of %d images cannot be read: %s%s", len(rows), len(paths), named, more)
