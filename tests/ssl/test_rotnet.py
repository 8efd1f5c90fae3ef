"""RotNet's step by hand: the four rotations of each image, their targets, the loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nds_plugin.images.networks import MEAN, STD
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.augment import WORDS, crops
from nds_plugin.ssl.batches import Batch, Batches
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.rotnet import MIN_CROP, RotNet
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig

CONFIG = PretrainConfig(method="rotnet", size=16, batch_size=8, bn_groups=1, precision="fp32")
NETWORK = NetworkConfig(width=4, stem="half")


def batch_of(folder: Path, images: np.ndarray) -> Batch:
    np.save(folder / "rows.npy", images)
    rows = MappedRows.of_file(folder / "rows.npy", np.arange(len(images)))
    return Batches(rows, ShuffledStream(np.arange(len(images)), 1), 1, 8, 0, 1).batch(0)


@pytest.fixture
def noise(tmp_path: Path) -> Batch:
    return batch_of(tmp_path, np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8))


@pytest.fixture
def landscapes(tmp_path: Path) -> Batch:
    """Images that are bright above and dark below."""
    heights = np.linspace(250, 5, 20).astype(np.uint8)
    return batch_of(tmp_path, np.broadcast_to(heights[None, :, None, None], (8, 20, 20, 3)))


class BrightestSide(nn.Module):
    """Says where an image is brightest: above, at the left, below or at the right."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        grey = inputs.mean(1)
        half = grey.shape[-1] // 2
        sides = (grey[:, :half], grey[:, :, :half], grey[:, half:], grey[:, :, half:])
        brightness = torch.stack([side.mean((1, 2)) for side in sides], dim=1)
        return 50.0 * (brightness == brightness.amax(1, keepdim=True))


class Constant(nn.Module):
    """Says the same of every image, with these logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(inputs), 4)


def loss_of(network: nn.Module, batch: Batch) -> float:
    return told_of(network, batch)[0]


def told_of(network: nn.Module, batch: Batch) -> tuple[float, float]:
    """Loss and accuracy."""
    learner = RotNet(NETWORK, CONFIG, 3, 1)
    learner.network = network
    return learner(batch).item(), learner.accuracy.item()


def test_a_network_that_tells_by_how_many_counter_clockwise_quarters_an_image_was_turned_has_no_loss(
    landscapes: Batch,
) -> None:
    assert told_of(BrightestSide(), landscapes) == pytest.approx((0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("answer", range(4))
def test_a_network_that_always_gives_the_same_answer_is_right_once_in_four(noise: Batch, answer: int) -> None:
    logits = [0.0] * 4
    logits[answer] = 2.0
    surprise = math.log(3 + math.exp(2.0))  # of a wrong answer; that of the right one is 2 less
    assert told_of(Constant(*logits), noise) == pytest.approx((surprise - 2 / 4, 1 / 4), rel=1e-5)


def test_a_network_that_knows_nothing_has_a_loss_of_log_4(noise: Batch) -> None:
    assert loss_of(Constant(0, 0, 0, 0), noise) == pytest.approx(math.log(4), rel=1e-5)


def test_the_loss_is_the_mean_surprise_at_each_rotation_of_each_crop(noise: Batch) -> None:
    learner = RotNet(NETWORK, CONFIG, 3, 1)
    cut = crops(noise.pixels.permute(0, 3, 1, 2).float(), noise.units[:, :WORDS], 16, MIN_CROP)
    turned, targets = [], []
    for crop in cut.permute(0, 2, 3, 1).numpy():
        for quarters in range(4):
            pixels = (np.rot90(crop, quarters) / 255 - MEAN) / STD
            turned.append(torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1))
            targets.append(quarters)
    again = RotNet(NETWORK, CONFIG, 3, 1)
    with torch.no_grad():
        outputs = again.network(torch.stack(turned)).tolist()
    terms = []
    for logits, target in zip(outputs, targets):
        terms.append(math.log(sum(math.exp(v) for v in logits)) - logits[target])
    assert len(terms) == 32
    assert learner(noise).item() == pytest.approx(sum(terms) / 32, rel=1e-4)
