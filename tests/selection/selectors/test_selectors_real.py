"""The selectors on real photographs: for a driving client, driving frames are drawn more often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nds_plugin.datasets.coco.split import index_coco
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import by_image, select
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.base import Evidence, Features, weigh_images
from nds_plugin.selection.selectors.domain_classifier import DomainClassifier
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.gate_network import score_gate, train_gate
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.selection.tables import source_shares
from nds_plugin.source.features import extract_features
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

CROP = 64
IMAGES = {"camvid": 50, "coco_mini": 90, "uwear": 50, "food": 50}


def _index(data: Path, name: str, count: int) -> SourceIndex:
    folder = data / "detection" / name
    index = index_coco(folder / "train.json", folder / "images", source=name)
    rows = np.linspace(0, len(index) - 1, count).astype(int)
    return SourceIndex(index.table.take(rows), index.classes)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    """Random weights: even these tell streets a little from the rest."""
    return load_feature_network(shared_state=build_network(4, seed=0).state_dict())


@pytest.fixture(scope="module")
def seen(nds_data: Path, network: FeatureNetwork) -> Evidence:
    source = SourceIndex.join([_index(nds_data, name, count) for name, count in IMAGES.items()])
    target = _index(nds_data, "cityscapes", 40)
    return Evidence(source, *(Features(*extract_features(i, network, CROP)) for i in (source, target)))


def _driving(selector: str, index: SourceIndex, partition: Partition, **given: Any) -> float:
    """How much oftener than uniformly driving frames are drawn, the mean of five draws."""
    shares = []
    known = SELECTORS[selector]
    for seed in range(5):
        weigher = known if by_image(known) else known()
        selection = select(index, partition, SelectionConfig(weigher, count=48, seed=seed), **given)
        rows = {row["source"]: row for row in source_shares(selection, index)}
        shares.append(rows["camvid"]["draw_share"] / rows["camvid"]["index_share"])
    return float(np.mean(shares))


@pytest.mark.parametrize("selector", [NearestNeighbours(neighbours=10), DomainClassifier(l2=0.1)])
def test_selectors_that_look_at_the_target_draw_driving_for_cityscapes(
    selector: NearestNeighbours | DomainClassifier, seen: Evidence
) -> None:
    weights = weigh_images(selector, seen)
    partition = Partition.by_source(seen.index)
    assert _driving(selector.name, seen.index, partition, image_weights=weights) > 1.25


def test_a_gate_on_the_sources_draws_driving_for_cityscapes(
    seen: Evidence, network: FeatureNetwork, nds_data: Path, tmp_path: Path
) -> None:
    assert seen.source is not None
    # Not k-means: on random features it does not keep streets together.
    partition = Partition.by_source(seen.index)
    gate = train_gate(seen.index, partition, network, seen.source, CROP, GateConfig(), tmp_path / "gate")
    scores = score_gate(gate, _index(nds_data, "cityscapes", 40))
    assert sum(scores.z) == pytest.approx(1.0)
    assert _driving("gate", seen.index, partition, scores=scores) > 1.25
