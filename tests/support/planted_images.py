"""A small source of pictures in three colours, for passes that are cut into shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.source.extraction import Extraction
from nds_plugin.source.index import ImageRecord, SourceIndex

CROP = 32
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def coloured(folder: Path, count: int, broken: tuple[int, ...] = ()) -> SourceIndex:
    """``count`` noisy pictures, red, green and blue in turn; labels are the colours."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, records = np.random.default_rng(0), []
    for i in range(count):
        path = folder / f"{i:04d}.png"
        pixels = rng.normal(COLOURS[i % 3], 25, (36, 40, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        if i in broken:
            path.write_bytes(b"no image")
        records.append(ImageRecord("a", str(i), str(path), 40, 36, i % 3))
    return SourceIndex.from_records(records, classes=("red", "green", "blue"))


def network() -> FeatureNetwork:
    """A ResNet-18 of random weights: needs no timm."""
    return load_feature_network(shared_state=build_network(4).state_dict())


def extraction() -> Extraction:
    """How its features are computed."""
    return Extraction(network(), CROP)
