"""Small folders of classes, and the job of self-supervision on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
FOLDERS:
  source: {{FOLDER: "{root}/source"}}
  target_train: {{FOLDER: "{root}/target", PART: train}}
  target_test: {{FOLDER: "{root}/target", PART: test}}
DEVICE: cpu
MODEL: {{WIDTH: 4, STEM: half}}
PRETRAIN: {{SIZE: 32, METHOD: moco, BATCH_SIZE: 8, QUEUE: 16, DIM: 8, BN_GROUPS: 2, ITERATIONS: 6, CHECKPOINT_PERIOD: 2,
  PRECISION: fp32}}
FINETUNE: {{SIZE: 32, BATCH_SIZE: 6, ITERATIONS: 4, CHECKPOINT_PERIOD: 2, PRECISION: fp32}}
NDS:
  SELECTOR: uniform
  SOURCE: {{DATASETS: [source]}}
  TARGET: {{TRAIN: [target_train], TEST: [target_test]}}
  BUDGET: {{IMAGES: 12}}
"""


def write_images(folder: Path, count: int, seed: int, side: int = 24) -> None:
    """Photographs of noise, each of a colour of its own."""
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.PCG64(seed))
    for i in range(count):
        colour = rng.integers(0, 200, 3)
        pixels = colour + rng.integers(0, 56, (side, side + 4, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")


def write_folders(root: Path) -> Path:
    """A source of 30 images without classes, and a target of three classes of six; the path of a config."""
    write_images(root / "source", 30, 0)
    for number, name in enumerate(("ape", "bee", "cow")):
        write_images(root / "target" / name, 6, 10 + number)
    path = root / "job.yaml"
    path.write_text(CONFIG.format(root=root), encoding="utf-8")
    return path
