"""Laws of the histogram: shares by nearest centroid, which are K numbers from one forward pass an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_experts import two_domains, write_domain

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select, selector_weights
from nds_plugin.selection.selectors.base import Features
from nds_plugin.selection.selectors.gate import GateConfig, GateSelector
from nds_plugin.selection.selectors.gate_network import score_gate, train_gate
from nds_plugin.selection.selectors.gate_set import Gate
from nds_plugin.selection.selectors.histogram import Histogram, centroids
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.source.clustering import nearest
from nds_plugin.source.features import extract_features
from nds_plugin.source.folder import index_folder
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import PartitionConfig, partition_by_features

CROP = 32


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_feature_network(shared_state=build_network(4, seed=0).state_dict())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceIndex, Partition]:
    return two_domains(tmp_path_factory.mktemp("source"), 20)


@pytest.fixture(scope="module")
def features(network: FeatureNetwork, source: tuple[SourceIndex, Partition]) -> Features:
    return Features(*extract_features(source[0], network, CROP))


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, network: FeatureNetwork,
    source: tuple[SourceIndex, Partition], features: Features,
) -> Gate:  # fmt: skip
    return train_gate(*source, network, features, CROP, None, tmp_path_factory.mktemp("centroids"))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target") / "night"
    write_domain(folder, 12, bright_top=False, seed=9)
    return folder


def test_z_is_the_share_of_images_by_nearest_centroid_computed_by_hand(
    gate: Gate,
    night: Path,
    network: FeatureNetwork,
    source: tuple[SourceIndex, Partition],
    features: Features,
) -> None:
    scores = score_gate(gate, night)
    seen = extract_features(index_folder(night), network, CROP)[0].astype(np.float64)
    means = [features.values[source[1].cluster == k].mean(axis=0, dtype=np.float64) for k in range(2)]
    distance = np.stack([np.square(seen - mean).sum(axis=1) for mean in means])
    assert scores.z == [float((distance.argmin(axis=0) == k).mean()) for k in range(2)]
    assert (scores.metric, scores.images, scores.cost.forward_passes) == ("share", 12, 12)
    assert sum(scores.z) == pytest.approx(1)
    assert scores.z[1] > 0.8


def test_the_centroids_of_a_partition_by_k_means_give_its_own_clusters_back(
    source: tuple[SourceIndex, Partition], features: Features
) -> None:
    index = source[0]
    partition = partition_by_features(
        index, features.values, features.readable, PartitionConfig(num_clusters=3)
    )
    found = nearest(features.values, centroids(features, partition))
    assert (found == partition.cluster).all()


def test_the_source_s_own_histogram_is_the_sizes_of_its_clusters(
    network: FeatureNetwork, source: tuple[SourceIndex, Partition], features: Features, tmp_path: Path
) -> None:
    index = source[0]
    partition = partition_by_features(
        index, features.values, features.readable, PartitionConfig(num_clusters=3)
    )
    scores = score_gate(train_gate(index, partition, network, features, CROP, None, tmp_path), index)
    assert scores.z == (partition.sizes / len(index)).tolist()


def test_weights_are_the_shares_but_for_the_rest_which_all_images_have_alike() -> None:
    sizes, z = np.array([60, 30, 10]), np.array([0.25, 0.75, 0.0])
    np.testing.assert_allclose(Histogram(rest=0.0).cluster_weights(z, sizes), z)
    expected = 0.8 * z + 0.2 * np.array([0.6, 0.3, 0.1])
    np.testing.assert_allclose(Histogram(rest=0.2).cluster_weights(z, sizes), expected)


def test_a_draw_takes_the_client_s_clusters_first_and_the_rest_fills_the_budget(
    gate: Gate, night: Path, source: tuple[SourceIndex, Partition]
) -> None:
    scores = score_gate(gate, night)
    drawn = select(*source, SelectionConfig(Histogram(), count=30), scores)
    assert drawn.column("source").to_pylist().count("night") >= 19
    assert (drawn.info["metric"], drawn.info["sees_target"]) == ("share", False)
    only = Scores(**{**scores.__dict__, "z": [0.0, 1.0]})
    with pytest.raises(NDSError, match="budget must be 1 to 20"):
        select(*source, SelectionConfig(Histogram(rest=0.0), count=30), only)


def test_the_centroids_are_kept_and_another_gate_is_not_taken_for_them(
    gate: Gate, network: FeatureNetwork, source: tuple[SourceIndex, Partition], features: Features
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in gate.directory.iterdir()}
    assert train_gate(*source, network, features, CROP, None, gate.directory).hash == gate.hash
    assert before == {p.name: p.stat().st_mtime_ns for p in gate.directory.iterdir()}
    fitted = train_gate(*source, network, features, CROP, GateConfig(), gate.directory)
    assert fitted.hash != gate.hash
    assert train_gate(*source, network, features, CROP, None, gate.directory).hash == gate.hash


def test_scores_of_centroids_experts_and_a_gate_are_not_mixed_up(
    gate: Gate, night: Path, source: tuple[SourceIndex, Partition]
) -> None:
    scores, sizes = score_gate(gate, night), source[1].sizes
    with pytest.raises(NDSError, match="the gate selector needs scores of a gate, these are of metric share"):
        selector_weights(GateSelector(), sizes, scores)
    with pytest.raises(NDSError, match="the nds selector needs scores of experts, these are of metric share"):
        selector_weights(NDS(), sizes, scores)
    with pytest.raises(NDSError, match="scores of a histogram are of metric 'share' alone, not 'posterior'"):
        scores.with_metric("posterior")
    with pytest.raises(NDSError, match="the histogram selector needs .*: score the centroids first"):
        selector_weights(Histogram(), sizes, None)


def test_a_cluster_of_which_nothing_can_be_read_has_no_centroid(
    source: tuple[SourceIndex, Partition], features: Features
) -> None:
    blind = Features(features.values, source[1].cluster == 0)
    with pytest.raises(NDSError, match="histogram: no image of cluster 1 can be read"):
        centroids(blind, source[1])
