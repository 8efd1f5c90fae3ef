"""What settings may be is what there is, and what a pretraining depends on is what its method reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.ssl import network
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import LEARNERS, Images, pretraining_key
from nds_plugin.ssl.settings import DEPTHS, METHODS, STEMS, NetworkConfig, PretrainConfig


def test_methods_stems_and_depths_of_the_settings_are_those_that_there_are() -> None:
    assert set(METHODS) == set(LEARNERS)
    assert set(STEMS) == set(network._STEMS)
    assert set(DEPTHS) == set(network._LAYERS)


def key(config: PretrainConfig) -> str:
    placed = PlacedSelection("subset", np.ones(1), np.zeros(1, np.int64), None)
    images = Images(MappedRows([], np.zeros(0), np.zeros(0)), placed, "selection")
    return pretraining_key(NetworkConfig(), config, images, 0, "")


@pytest.mark.parametrize(
    ("changes", "of_moco"),
    [
        ({"version": 2}, True),
        ({"queue": 512}, True),
        ({"dim": 64}, True),
        ({"temperature": 0.2}, True),
        ({"ema": 0.9}, True),
        ({"bn_groups": 4}, False),
        ({"base_lr": 0.1}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_of_moco_decide_on_its_pretraining_alone(changes: dict[str, Any], of_moco: bool) -> None:
    moco, rotnet = PretrainConfig(method="moco"), PretrainConfig(method="rotnet")
    assert key(replace(moco, **changes)) != key(moco)
    assert (key(replace(rotnet, **changes)) == key(rotnet)) == of_moco
