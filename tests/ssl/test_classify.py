"""The classifier of a target."""

from __future__ import annotations

import torch

from nds_plugin.ssl.classify import Classifier
from nds_plugin.ssl.network import build_network
from nds_plugin.ssl.settings import FinetuneConfig, NetworkConfig

NETWORK = NetworkConfig(width=4)


def trained(*, scale: float) -> tuple[Classifier, torch.Tensor]:
    """A linear classifier after a few steps, on features that are ``scale`` times as large; and images."""
    found = Classifier(NETWORK, FinetuneConfig(linear=True), classes=3, seed=0)
    with torch.no_grad():
        for norm in (found.network.layer4[0].bn2, found.network.layer4[0].downsample[1]):
            norm.weight.mul_(scale)
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(found.network.fc.parameters(), lr=0.1)
    found.train()
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(found.network(images), torch.arange(12) % 3).backward()
        optimizer.step()
    return found.eval(), images


def test_the_weights_of_a_linear_classifier_are_those_of_a_plain_network_with_the_same_outputs() -> None:
    classifier, images = trained(scale=1.0)
    plain = build_network(NETWORK, 3, 1).eval()
    plain.load_state_dict(classifier.weights())
    with torch.no_grad():
        assert torch.allclose(plain(images), classifier.network(images), atol=1e-4)


def test_a_linear_classifier_learns_the_same_from_features_of_any_size() -> None:
    (small, images), (large, _) = trained(scale=0.3), trained(scale=3.0)
    with torch.no_grad():
        assert torch.allclose(small.network(images), large.network(images), atol=0.02)
