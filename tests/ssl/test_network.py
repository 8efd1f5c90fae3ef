"""Batch norm in groups against torch's own on each group."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from ranks import Ranks
from torch import nn

from nds_plugin.ssl.network import GroupedBatchNorm, build_network, multiply_adds
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run

NETWORK = NetworkConfig(width=4, stem="half")
STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize(("depth", "published"), [(18, 1.81e9), (50, 4.09e9)])
def test_multiply_adds_are_those_that_torchvision_publishes(depth: int, published: float) -> None:
    assert multiply_adds(NetworkConfig(depth=depth, stem="imagenet"), 224) == pytest.approx(
        published, rel=0.01
    )


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers whose mean and deviation differ from image to image."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.linspace(1, 4, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return torch.randn(*shape, generator=generator) * size + size


def norms(groups: int) -> tuple[GroupedBatchNorm, list[nn.BatchNorm2d]]:
    """A grouped norm, and torch's for each group, of the same weights and statistics."""
    ours = GroupedBatchNorm(5)
    ours.groups = groups
    with torch.no_grad():
        for number, tensor in enumerate((ours.weight, ours.bias, ours.running_mean, ours.running_var)):
            tensor.copy_(torch.rand(5, generator=torch.Generator().manual_seed(number)) + 0.5)
    theirs = [nn.BatchNorm2d(5) for _ in range(groups)]
    for norm in theirs:
        norm.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_is_normalised_as_torch_does_it_alone_and_its_gradients_are_the_same(groups: int) -> None:
    ours, theirs = norms(groups)
    inputs = noise(8, 5, 3, 3).requires_grad_()
    again = inputs.detach().clone().requires_grad_()
    found = ours(inputs)
    expected = torch.cat([norm(part) for norm, part in zip(theirs, again.chunk(groups))])
    assert torch.allclose(found, expected, atol=1e-5)
    for output in (found, expected):
        (output * noise(8, 5, 3, 3, seed=1)).sum().backward()
    assert torch.allclose(inputs.grad, again.grad, atol=1e-4)
    for name in ("weight", "bias"):
        together = sum(getattr(norm, name).grad for norm in theirs)
        assert torch.allclose(getattr(ours, name).grad, together, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_running_statistics_are_the_means_of_those_of_the_groups(groups: int) -> None:
    ours, theirs = norms(groups)
    for step in range(3):
        inputs = noise(8, 5, 3, 3, seed=step)
        ours(inputs)
        means = {name: torch.zeros(5) for name in STATISTICS}
        for norm, part in zip(theirs, inputs.chunk(groups)):
            norm(part)
            for name in STATISTICS:
                means[name] += getattr(norm, name) / groups
        for name in STATISTICS:
            assert torch.allclose(getattr(ours, name), means[name], rtol=1e-5), name
        assert int(ours.num_batches_tracked) == step + 1


def test_after_training_all_images_are_normalised_by_the_running_statistics_which_stay() -> None:
    ours, _ = norms(2)
    ours(noise(8, 5, 3, 3))
    plain = nn.BatchNorm2d(5)
    plain.load_state_dict(ours.state_dict())
    before = copy.deepcopy(ours.state_dict())
    inputs = noise(7, 5, 3, 3, seed=1)  # which two groups do not divide
    assert torch.allclose(ours.eval()(inputs), plain.eval()(inputs), atol=1e-6)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())


def test_a_network_of_groups_sees_each_group_as_a_network_without_them_does() -> None:
    images = noise(8, 3, 32, 32)
    with torch.no_grad():
        found = build_network(NETWORK, 3, 1, groups=2)(images)
        expected = torch.cat([build_network(NETWORK, 3, 1)(part) for part in images.chunk(2)])
        together = build_network(NETWORK, 3, 1)(images)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(together, expected, atol=1e-2)


@pytest.mark.parametrize("method", ["moco", "rotnet"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_processes_share_the_groups_of_a_batch(tmp_path: Path, method: str, world_size: int) -> None:
    config = PretrainConfig(method=method, size=16, batch_size=8, queue=24, dim=6, bn_groups=4)
    run = Run(3, Ranks(0, world_size), torch.device("cpu"))
    _, learner = prepared(tmp_path, NETWORK, config, run)
    found = [module.groups for module in learner.modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(found) == {4 // world_size}
