"""Batch norms folded into convolutions: the same features, or the network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.folding import folded
from nds_plugin.images.networks import build_network


def with_statistics(body: nn.Module) -> nn.Module:
    """Batch norms that change something."""
    torch.manual_seed(0)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return body


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


CROPS = torch.randint(0, 256, (3, 48, 48, 3), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_a_folded_network_gives_the_same_features_and_leaves_the_network_alone(name: str) -> None:
    if name == "resnet18":
        network = load_feature_network(shared_state=build_network(4).state_dict())
    else:
        timm = pytest.importorskip("timm", reason="timm is not installed: the extra experts")
        network = FeatureNetwork(timm.create_model(name, num_classes=0), name)
    with_statistics(network.body)
    expected, before = network(CROPS), batch_norms(network)
    found = folded(network, 48)
    assert (batch_norms(found), batch_norms(network)) == (0, before)
    torch.testing.assert_close(found(CROPS), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(network(CROPS), expected)


class NormFirst(nn.Module):
    """A batch norm that is registered after a convolution and runs before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(inputs)).mean(dim=(2, 3))


def test_a_network_whose_batch_norms_come_first_stays_as_it_is() -> None:
    network = FeatureNetwork(with_statistics(NormFirst()), "norm first")
    assert folded(network, 48) is network
