"""ResNets of torchvision with random weights."""

from __future__ import annotations

import torch
import torchvision


def resnet(name: str = "resnet18", seed: int = 0) -> torch.nn.Module:
    """A ResNet with random weights and random batch statistics, in eval mode."""
    torch.manual_seed(seed)
    network = getattr(torchvision.models, name)(weights=None, num_classes=4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.2, 0.6)
            module.bias.data.normal_(0, 0.1)
    return network.eval()
