"""What is computed in 32 bits whatever the networks compute in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import write_checkpoint
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.classify import Classifier, Labelled, evaluate
from nds_plugin.ssl.moco import MoCo, contrast
from nds_plugin.ssl.network import build_network
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.rotnet import RotNet
from nds_plugin.ssl.settings import FinetuneConfig, NetworkConfig, PretrainConfig

CPU = torch.device("cpu")
NETWORK = NetworkConfig(width=4, stem="half")
CONFIG = PretrainConfig(size=24, batch_size=8, queue=16, dim=4, bn_groups=2)
CONFIG_2 = PretrainConfig(size=24, batch_size=8, queue=16, dim=4, bn_groups=2, version=2)
LEARNERS = {
    "moco v1": lambda: MoCo(NETWORK, CONFIG, 0, 2),
    "moco v2": lambda: MoCo(NETWORK, CONFIG_2, 0, 2),
    "rotnet": lambda: RotNet(NETWORK, CONFIG, 0, 2),
    "classifier": lambda: Classifier(NETWORK, FinetuneConfig(size=24), 3, 0),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MappedRows:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (16, 28, 28, 3), dtype=np.uint8))
    return MappedRows.of_file(path, np.arange(16))


@pytest.mark.parametrize("name", LEARNERS)
def test_the_networks_see_the_same_views_in_bf16(name: str, rows: MappedRows) -> None:
    stream, labels = ShuffledStream(np.arange(16), 1), np.arange(16) % 3
    batch = Batches(rows, stream, 1, 8, 0, 1, groups=2, keys=True, labels=labels).batch(0)
    seen: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for in_bf16, views in seen.items():
        learner: Any = LEARNERS[name]()
        networks = [learner.query, learner.key] if hasattr(learner, "query") else [learner.network]
        for network in networks:
            network.register_forward_pre_hook(lambda _, inputs, views=views: views.append(inputs[0]))
        first: nn.Module = networks[0].conv1
        formats: list[torch.dtype] = []
        first.register_forward_hook(lambda _, __, output, formats=formats: formats.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            learner(batch)
        assert formats == [torch.bfloat16 if in_bf16 else torch.float32]
    assert len(seen[True]) == len(seen[False]) == (2 if name.startswith("moco") else 1)
    assert all(torch.equal(a, b) for a, b in zip(seen[True], seen[False]))


def test_the_loss_of_moco_is_computed_in_32_bits() -> None:
    random = torch.Generator().manual_seed(0)
    queries, keys, queue = (F.normalize(torch.randn(n, 6, generator=random)) for n in (5, 5, 16))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = contrast(queries, keys, queue, 0.07)
    assert torch.equal(loss, contrast(queries, keys, queue, 0.07)[0])


def weights_of(bias: list[float], path: Path) -> Path:
    """A classifier that says the same of every image."""
    state = build_network(NETWORK, 3, 0).state_dict()
    write_checkpoint(
        path,
        {"model": {**state, "fc.weight": state["fc.weight"] * 0, "fc.bias": torch.tensor(bias)}, "meta": {}},
    )
    return path


def test_a_classifier_is_evaluated_in_32_bits(rows: MappedRows, tmp_path: Path) -> None:
    """In bf16, 256 and 256.5 are the same number, so that the first class would win."""
    test = Labelled(rows, np.ones(16, dtype=np.int64), ("a", "b", "c"))
    path = weights_of([256.0, 256.5, 0.0], tmp_path / "model.pth")
    found = evaluate(path, NETWORK, FinetuneConfig(size=24, precision="bf16"), test, CPU)
    assert found["top1"] == 100


def test_no_convolution_of_an_evaluation_is_cut_to_tf32(rows: MappedRows, tmp_path: Path) -> None:
    test = Labelled(rows, np.ones(16, dtype=np.int64), ("a", "b", "c"))
    path = weights_of([0.0, 1.0, 0.0], tmp_path / "model.pth")
    allowed: set[bool] = set()
    hook = nn.modules.module.register_module_forward_hook(
        lambda *_: allowed.add(torch.backends.cudnn.allow_tf32)
    )
    with hook:
        evaluate(path, NETWORK, FinetuneConfig(size=24), test, CPU)
    assert allowed == {False}


def test_outputs_that_are_no_numbers_are_no_answers(rows: MappedRows, tmp_path: Path) -> None:
    test = Labelled(rows, np.ones(16, dtype=np.int64), ("a", "b", "c"))
    path = weights_of([0.0, float("nan"), 0.0], tmp_path / "model.pth")
    with pytest.raises(NDSError, match="outputs for test images are no numbers"):
        evaluate(path, NETWORK, FinetuneConfig(size=24), test, CPU)
