"""The learning rate as a function of the iteration, and SGD by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batch, Batches
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.settings import TrainingConfig
from nds_plugin.ssl.train import Training, learning_rate

COSINE = TrainingConfig(iterations=24, base_lr=0.1, warmup=4)
STEPS = TrainingConfig(iterations=24, base_lr=0.1, warmup=4, schedule="steps", steps=(10, 20))


def steps_of(schedule: str, step: int) -> tuple[int, ...]:
    """One step, of the schedule that has steps."""
    return (step,) if schedule == "steps" else ()


def rates(config: TrainingConfig) -> list[float]:
    return [learning_rate(config, iteration) for iteration in range(config.iterations)]


@pytest.mark.parametrize("config", [COSINE, STEPS])
def test_a_warm_up_rises_in_equal_steps_to_the_full_rate(config: TrainingConfig) -> None:
    assert rates(config)[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_without_a_warm_up_the_first_rate_is_the_full_one(schedule: str) -> None:
    config = TrainingConfig(iterations=24, base_lr=0.1, schedule=schedule, steps=steps_of(schedule, 10))
    assert learning_rate(config, 0) == pytest.approx(0.1)


def test_a_cosine_is_half_in_the_middle_and_0_where_the_training_ends() -> None:
    assert learning_rate(COSINE, 14) == pytest.approx(0.05)
    assert learning_rate(COSINE, 9) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(COSINE, 23) == pytest.approx(0.05 * (1 + math.cos(math.pi * 19 / 20)))
    assert learning_rate(COSINE, 24) == pytest.approx(0.0, abs=1e-12)
    after = rates(COSINE)[4:]
    assert after == sorted(after, reverse=True)
    assert len(set(after)) == len(after)


def test_steps_divide_by_10_at_each_of_their_iterations() -> None:
    assert rates(STEPS)[4:] == pytest.approx([0.1] * 6 + [0.01] * 10 + [0.001] * 4)


class Slope(nn.Module):
    """A loss whose gradient is always (1, -2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 5.0]))

    def forward(self, batch: Batch) -> torch.Tensor:
        return (self.weight * torch.tensor([1.0, -2.0])).sum()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MappedRows:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.zeros((8, 8, 8, 3), dtype=np.uint8))
    return MappedRows.of_file(path, np.arange(8))


def trained(
    rows: MappedRows, folder: Path, config: TrainingConfig, model: Slope | None = None
) -> list[float]:
    """The weights after a training."""
    model = model or Slope()
    batches = Batches(rows, ShuffledStream(np.arange(8), 1), 1, 4, 0, config.iterations)
    Training(model, config, folder, OneProcess(), torch.device("cpu")).run(batches, 0)
    return model.weight.detach().tolist()


class Breaks(Slope):
    """Its loss is no number from the fifth iteration on."""

    seen = 0

    def forward(self, batch: Batch) -> torch.Tensor:
        self.seen += 1
        return super().forward(batch) * (1.0 if self.seen < 5 else float("nan"))


def test_a_loss_that_is_no_number_ends_the_training_and_the_last_good_checkpoint_is_kept(
    rows: MappedRows, tmp_path: Path
) -> None:
    config = TrainingConfig(size=8, batch_size=4, iterations=50, checkpoint_period=2, precision="fp32")
    with pytest.raises(NDSError) as caught:
        trained(rows, tmp_path, config, Breaks())
    kept = tmp_path / "model_0000004.pth"
    assert str(caught.value).startswith(
        f"{tmp_path.name}: the loss is nan at iteration 6: take a lower TRAINING.BASE_LR"
    )
    assert str(caught.value).endswith(f"{kept} is kept.")
    assert max(tmp_path.glob("model_*.pth")) == kept
    assert read_checkpoint(kept)["model"]["weight"].isfinite().all()


class BreaksWeights(Slope):
    """The gradient of its fourth loss is infinite; the loss is a number."""

    seen = 0

    def forward(self, batch: Batch) -> torch.Tensor:
        self.seen += 1
        broken = (self.weight - self.weight.detach()).sum().sqrt()  # 0, as steep as can be
        return super().forward(batch) + (broken if self.seen == 4 else 0)


def test_weights_that_the_step_before_a_checkpoint_broke_do_not_take_the_place_of_good_ones(
    rows: MappedRows, tmp_path: Path
) -> None:
    config = TrainingConfig(size=8, batch_size=4, iterations=50, checkpoint_period=2, precision="fp32")
    with pytest.raises(NDSError) as caught:
        trained(rows, tmp_path, config, BreaksWeights())
    kept = tmp_path / "model_0000002.pth"
    assert str(caught.value) == (
        f"{tmp_path.name}: weight holds NaN or an infinity after iteration 4: take a lower TRAINING.BASE_LR, or a longer "
        f"TRAINING.WARMUP. {kept} is kept."
    )
    assert list(tmp_path.glob("model_*.pth")) == [kept]


class OneOfTwo(OneProcess):
    """The process of rank 0, whose neighbour's loss and weights are no numbers."""

    world_size = 2

    def all_gather(self, value: Any) -> list[Any]:
        broken = {float: float("nan"), type(None): "weight holds NaN"}
        return [value, broken[type(value)]]


def test_a_loss_or_weights_that_are_no_numbers_on_one_process_end_the_training_on_all(tmp_path: Path) -> None:
    training = Training(Slope(), TrainingConfig(), tmp_path, OneOfTwo(), torch.device("cpu"))
    with pytest.raises(NDSError, match="the loss is nan at iteration 8"):
        training.check_loss(8, 0.5)
    with pytest.raises(NDSError, match="weight holds NaN after iteration 8"):
        training.check_weights(8)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1)])
@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_a_training_is_sgd_with_the_rates_the_momentum_and_the_weight_decay_that_are_asked_for(
    rows: MappedRows, tmp_path: Path, schedule: str, momentum: float, decay: float
) -> None:
    config = TrainingConfig(
        size=8, batch_size=4, iterations=6, base_lr=0.1, warmup=1, schedule=schedule, steps=steps_of(schedule, 4),
        momentum=momentum, weight_decay=decay, precision="fp32",
    )  # fmt: skip
    used = {
        "cosine": [0.05] + [0.05 * (1 + math.cos(math.pi * done / 5)) for done in range(5)],
        "steps": [0.05, 0.1, 0.1, 0.1, 0.01, 0.01],
    }
    expected = []
    for start, gradient in ((3.0, 1.0), (5.0, -2.0)):
        weight, speed = start, 0.0
        for rate in used[schedule]:
            speed = momentum * speed + gradient + decay * weight
            weight -= rate * speed
        expected.append(weight)
    assert trained(rows, tmp_path, config) == pytest.approx(expected, rel=1e-5)
