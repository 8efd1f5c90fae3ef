"""The record of a training, whole or gone on with."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nds_plugin.engine.processes import OneProcess
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl import train
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run, learning_rate

NETWORK = NetworkConfig(width=4, stem="half")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MappedRows:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8))
    return MappedRows.of_file(path, np.arange(40))


def run(rows: MappedRows, folder: Path, method: str, *, go_on: bool = False, ends_after: int = 6) -> None:
    """Train for six iterations with a checkpoint at the third, or until a batch fails to come."""
    config = PretrainConfig(
        method=method, size=16, batch_size=8, queue=16, dim=4, bn_groups=2, iterations=6, checkpoint_period=3,
        precision="fp32",
    )  # fmt: skip
    training, learner = prepared(folder, NETWORK, config, Run(3, OneProcess(), torch.device("cpu")))
    start = training.start(go_on)
    stream, keys = ShuffledStream(np.arange(40), 1), learner.views > 1
    batches = Batches(rows, stream, 3, 8, start, 6, groups=2, keys=keys)
    training.run(itertools.islice(batches, ends_after - start), start)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.mark.parametrize("method", ["moco", "rotnet"])
def test_a_training_that_goes_on_tells_what_the_unbroken_one_tells(
    rows: MappedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(train, "_TELL", 1)
    run(rows, tmp_path / "whole", method)
    whole = lines(tmp_path / "whole")
    assert [line["iteration"] for line in whole] == [1, 2, 3, 4, 5, 6]
    for number, line in enumerate(whole):
        config = PretrainConfig(iterations=6)
        assert line["lr"] == pytest.approx(learning_rate(config, number))
        assert line["loss"] > 0
        assert line["images_per_s"] > 0
        assert 0 <= line["accuracy"] <= 1
    run(rows, tmp_path / "broken", method, ends_after=5)
    with open(tmp_path / "broken/metrics.json", "a") as file:
        file.write('{"iteration": 2')  # killed while it was told
    run(rows, tmp_path / "broken", method, go_on=True)
    for line, other in zip(lines(tmp_path / "broken"), whole, strict=True):
        assert {**line, "images_per_s": 0} == {**other, "images_per_s": 0}
