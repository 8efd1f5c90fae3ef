"""Two domains of pictures that tell "up" by opposite signs, and a few experts on them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

TINY = ExpertConfig(crop_size=32, steps=2, shared_steps=2, batch_size=2, base_lr=0.02, precision="fp32")


def write_domain(folder: Path, count: int, bright_top: bool, seed: int = 0) -> list[str]:
    """Noisy pictures of 64 x 48, bright at the top or at the bottom."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, bright_top])
    paths = []
    for number in range(count):
        ramp = np.linspace(200, 40, 48) if bright_top else np.linspace(40, 200, 48)
        pixels = ramp[:, None, None] + rng.normal(0, 20, (48, 64, 3)) + rng.normal(0, 20, 3)
        path = folder / f"{number:03d}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        paths.append(str(path))
    return paths


def two_domains(folder: Path, count: int = 20) -> tuple[SourceIndex, Partition]:
    """A source of both domains, cut into one cluster each; labels are the domains."""
    records = [
        ImageRecord(name, str(i), path, 64, 48, label)
        for label, (name, bright_top) in enumerate((("day", True), ("night", False)))
        for i, path in enumerate(write_domain(folder / name, count, bright_top))
    ]
    index = SourceIndex.from_records(records, classes=("day", "night"))
    return index, Partition(index.column("label"), index.table, index.hash, method="kmeans", seed=0)


def trained(folder: Path, config: ExpertConfig = TINY, count: int = 20) -> ExpertSet:
    """Experts of :func:`two_domains`."""
    index, partition = two_domains(folder, count)
    return train_experts(index, partition, config, folder / "experts", progress=False)


def edit_manifest(folder: Path, pattern: str, replacement: str) -> None:
    """Change a manifest's text by hand, as somebody might."""
    path = folder / "manifest.json"
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1, pattern
    path.write_text(text)
