"""Features of a client's images, with what they cost the client."""

from __future__ import annotations

import os
import time

import torch

from nds_plugin.images.backbones import FeatureNetwork
from nds_plugin.images.cost import Cost
from nds_plugin.selection.selectors.base import Features, TargetConfig
from nds_plugin.source.features import extract_features
from nds_plugin.source.folder import index_folder
from nds_plugin.source.index import SourceIndex, drawn_rows, take_rows


def target_features(
    network: FeatureNetwork,
    images: SourceIndex | str | os.PathLike[str],
    crop_size: int,
    config: TargetConfig,
    device: torch.device,
) -> Features:
    """Features of a client's images (those of ``config.max_images`` drawn), one forward pass each.

    Unreadable images are named in a WARNING and left out.

    Raises:
        NDSError: no images, or none that can be read.
    """
    index = images if isinstance(images, SourceIndex) else index_folder(images)
    rows = drawn_rows(len(index), config.max_images, config.seed)
    index = SourceIndex(take_rows(index.table, rows), index.classes)
    start = time.perf_counter()
    values, readable = extract_features(
        index, network, crop_size, device=device, num_workers=config.num_workers, max_unreadable=1.0
    )
    count = int(readable.sum())
    return Features(values, readable, Cost(count, count, round(time.perf_counter() - start, 3)))
