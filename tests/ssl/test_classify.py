"""The classifier of a target."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import write_checkpoint
from nds_plugin.ssl.classify import Classifier, Labelled, evaluate, finetune
from nds_plugin.ssl.network import build_network, trunk
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.settings import FinetuneConfig, NetworkConfig
from nds_plugin.ssl.train import Run

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


@pytest.mark.parametrize("own", [True, False], ids=["of the job", "of the user"])
def test_weights_that_no_network_can_start_from_are_named_by_their_origin(tmp_path: Path, own: bool) -> None:
    path = tmp_path / "model_final.pth"
    write_checkpoint(path, {"model": trunk(build_network(NetworkConfig(width=8), 3, 0))})
    np.save(tmp_path / "rows.npy", np.zeros((4, 10, 10, 3), dtype=np.uint8))
    target = Labelled(MappedRows.of_file(tmp_path / "rows.npy", np.arange(4)), np.arange(4) % 2, ("a", "b"))
    network = NETWORK if own else NetworkConfig(width=4, weights=str(path))
    told = f"{'the weights of the pretraining' if own else 'MODEL.WEIGHTS'} {path} does not fit"
    run = Run(0, OneProcess(), torch.device("cpu"))
    with pytest.raises(NDSError, match=f"^{re.escape(told)}"):
        finetune(tmp_path / "run", "key", network, FinetuneConfig(size=8), target, path, run)


# -- accuracy ---------------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "violet")  # violet is a class that is never the answer


@pytest.fixture(scope="module")
def colour_namer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that says which of an image's channels is the brightest: all its layers pass these on."""
    network = build_network(NETWORK, len(COLOURS), 0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
        passed = [
            network.conv1,
            *(layer[0].downsample[0] for layer in (network.layer2, network.layer3, network.layer4)),
        ]
        for conv in passed:
            middle = conv.kernel_size[0] // 2
            for channel in range(3):
                conv.weight[channel, channel, middle, middle] = 1.0
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0]))
        network.fc.weight[:3, :3] = torch.eye(3)
    path = tmp_path_factory.mktemp("weights") / "namer.pth"
    write_checkpoint(path, {"model": network.state_dict()})
    return path


def accuracy(weights: Path, folder: Path, labels: list[int], answers: list[int]) -> dict:
    """What is found on images of these classes, that are of the colours of these answers."""
    pixels = np.full((len(labels), 10, 10, 3), 20, dtype=np.uint8)
    pixels[np.arange(len(labels)), :, :, answers] = 240
    np.save(folder / "rows.npy", pixels)
    rows = MappedRows.of_file(folder / "rows.npy", np.arange(len(labels)))
    test = Labelled(rows, np.array(labels), COLOURS)
    return evaluate(weights, NETWORK, FinetuneConfig(size=8, precision="fp32"), test, torch.device("cpu"))


def test_top_1_counts_images_and_its_mean_per_class_counts_classes(
    colour_namer: Path, tmp_path: Path
) -> None:
    labels = [0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    answers = [1, 1, 1, 0, 2, 2, 2, 2, 2, 0]
    found = accuracy(colour_namer, tmp_path, labels, answers)
    assert found["images"] == 10
    assert found["top1"] == pytest.approx(70)
    assert found["per_class"]["red"] == 0
    assert found["per_class"]["green"] == pytest.approx(200 / 3)
    assert found["per_class"]["blue"] == pytest.approx(500 / 6)
    assert found["mean_per_class"] == pytest.approx((0 + 200 / 3 + 500 / 6) / 3)


def test_a_class_without_test_images_has_no_accuracy_and_no_part_in_the_mean(
    colour_namer: Path, tmp_path: Path
) -> None:
    found = accuracy(colour_namer, tmp_path, [2, 0, 0, 0, 0], [2, 0, 1, 1, 1])
    assert found["per_class"] == {"red": 25, "green": None, "blue": 100, "violet": None}
    assert found["mean_per_class"] == pytest.approx(62.5)
    assert found["top1"] == pytest.approx(40)


def test_an_accuracy_is_that_of_all_images_in_their_order(colour_namer: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)  # of more than two batches
    answers = np.where(rng.random(600) < 0.75, labels, (labels + 1) % 3)
    found = accuracy(colour_namer, tmp_path, labels.tolist(), answers.tolist())
    assert found["top1"] == pytest.approx(100 * (labels == answers).mean())
    for number, name in enumerate(COLOURS[:3]):
        assert found["per_class"][name] == pytest.approx(100 * (answers == labels)[labels == number].mean())
