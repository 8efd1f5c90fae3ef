"""SOLVER.AMP.ENABLED: bf16 on a CPU, Detectron2's own trainer on a GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_detector import example, tiny_config

from nds_plugin.d2.model.mixed_precision import CPUAMPTrainer, trainer_type


def _train(model: torch.nn.Module, trainer: type[SimpleTrainer], steps: int = 12) -> tuple[Any, list[float]]:
    loader = [[example(seed, [0, 1]) for seed in (2 * i, 2 * i + 1)] for i in range(2)] * (steps // 2)
    trainer_ = trainer(model.train(), loader, torch.optim.AdamW(model.parameters(), lr=1e-3))
    losses = []
    with EventStorage(0) as storage:
        torch.manual_seed(0)
        for trainer_.iter in range(steps):
            trainer_.run_step()
            losses.append(storage.latest()["total_loss"][0])
            storage.step()
    return trainer_, losses


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(tiny_config(2))


def test_the_trainer_follows_device_and_setting() -> None:
    assert trainer_type(False, "cpu") is trainer_type(False, "cuda:1") is SimpleTrainer
    assert trainer_type(True, "cpu") is CPUAMPTrainer
    assert trainer_type(True, "cuda:1") is AMPTrainer


def test_on_a_cpu_activations_are_bf16_and_weights_stay_fp32(model: torch.nn.Module) -> None:
    model = copy.deepcopy(model)
    seen = set()
    convolution = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    _train(model, CPUAMPTrainer, 2)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_bf16_learns_as_fp32_does(model: torch.nn.Module) -> None:
    _, exact = _train(copy.deepcopy(model), SimpleTrainer)
    _, rounded = _train(copy.deepcopy(model), CPUAMPTrainer)
    assert exact[-1] < 0.8 * exact[0], exact
    assert rounded[0] == pytest.approx(exact[0], rel=0.05)
    assert rounded[-1] == pytest.approx(exact[-1], rel=0.2), (exact, rounded)


def test_the_same_seed_gives_the_same_bits(model: torch.nn.Module) -> None:
    one, two = (_train(copy.deepcopy(model), CPUAMPTrainer, 4)[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
