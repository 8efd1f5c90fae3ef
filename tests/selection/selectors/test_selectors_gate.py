"""Laws of the gate: K numbers that sum to one from one forward pass an image; files that can be handed over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_experts import two_domains, write_domain

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.input_form import MSRA
from nds_plugin.images.networks import build_network
from nds_plugin.images.resnet_checkpoints import empty_resnet
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select, selector_weights
from nds_plugin.selection.selectors.base import Features, TargetConfig
from nds_plugin.selection.selectors.gate import GateConfig, GateSelector
from nds_plugin.selection.selectors.gate_network import score_gate, train_gate
from nds_plugin.selection.selectors.gate_set import Gate, gate_hash
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.source.features import extract_features
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

CROP = 32


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    """A random network: its features tell bright tops from bright bottoms."""
    return load_feature_network(shared_state=build_network(4, seed=0).state_dict())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceIndex, Partition]:
    return two_domains(tmp_path_factory.mktemp("source"), 20)


def make(
    folder: Path, network: FeatureNetwork, index: SourceIndex, partition: Partition, l2: float = 0.01
) -> Gate:
    features = Features(*extract_features(index, network, CROP))
    return train_gate(index, partition, network, features, CROP, GateConfig(l2), folder)


@pytest.fixture(scope="module")
def gate(
    tmp_path_factory: pytest.TempPathFactory, network: FeatureNetwork, source: tuple[SourceIndex, Partition]
) -> Gate:
    return make(tmp_path_factory.mktemp("gate"), network, *source)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Forty pictures of the second domain that the source does not hold."""
    write_domain(tmp_path / "night", 40, bright_top=False, seed=9)
    return tmp_path / "night"


def test_z_sums_to_one_and_names_the_cluster_of_the_target(gate: Gate, night: Path) -> None:
    scores = score_gate(gate, night)
    assert sum(scores.z) == pytest.approx(1.0)
    assert scores.z[1] > 0.8
    assert (scores.metric, scores.images, scores.unreadable) == ("posterior", 40, 0)


def test_one_forward_pass_an_image_is_all_that_the_client_computes(gate: Gate, night: Path) -> None:
    cost = score_gate(gate, night).cost
    assert (cost.images, cost.forward_passes) == (40, 40)
    assert cost.seconds > 0
    assert score_gate(gate, night, TargetConfig(max_images=15)).cost.forward_passes == 15


def test_scores_hold_no_word_of_single_images(gate: Gate, night: Path, tmp_path: Path) -> None:
    (night / "secret_name.png").write_bytes(b"no image")
    scores = score_gate(gate, night)
    scores.save(tmp_path / "scores.json")
    text = (tmp_path / "scores.json").read_text()
    assert "secret" not in text
    assert str(night) not in text
    assert Scores.load(tmp_path / "scores.json") == scores


def test_a_broken_image_is_left_out_and_counted(gate: Gate, night: Path) -> None:
    whole = score_gate(gate, night)
    target = sorted(night.iterdir())[7]
    content = target.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    scores = score_gate(gate, night)
    assert (scores.images, scores.unreadable) == (39, 1)
    assert scores.z == pytest.approx(whole.z, abs=0.03)


def test_a_target_of_which_nothing_can_be_read_is_refused(gate: Gate, tmp_path: Path) -> None:
    paths = write_domain(tmp_path / "cut", 3, bright_top=True)
    for path in paths:
        Path(path).write_bytes(Path(path).read_bytes()[:200])  # the header is whole
    with pytest.raises(NDSError, match="3 of 3 images cannot be read, all of them"):
        score_gate(gate, tmp_path / "cut")


def test_plain_draws_by_z_and_softmax_by_the_softmax_of_z(
    gate: Gate, night: Path, source: tuple[SourceIndex, Partition]
) -> None:
    scores, sizes = score_gate(gate, night), source[1].sizes
    plain = selector_weights(GateSelector(), sizes, scores)
    np.testing.assert_allclose(plain, scores.z)
    softmax = selector_weights(GateSelector(gate_draw="softmax"), sizes, scores)
    np.testing.assert_allclose(softmax, [1 / (1 + np.exp(10)), 1 / (1 + np.exp(-10))])  # min-max, T = 0.1


def test_a_draw_by_the_gate_prefers_the_target_s_domain(
    gate: Gate, night: Path, source: tuple[SourceIndex, Partition]
) -> None:
    selection = select(*source, SelectionConfig(GateSelector(), count=16), score_gate(gate, night))
    assert selection.column("source").to_pylist().count("night") >= 12
    assert selection.info["metric"] == "posterior"
    assert selection.info["sees_target"] is False
    assert selection.info["cost"]["forward_passes"] == 40


def test_a_gate_of_one_cluster_gives_it_all(
    tmp_path: Path, network: FeatureNetwork, source: tuple[SourceIndex, Partition], night: Path
) -> None:
    index = source[0]
    scores = score_gate(make(tmp_path / "gate", network, index, Partition.whole(index)), night)
    assert scores.z == [1.0]
    config = SelectionConfig(GateSelector(gate_draw="softmax"), count=7)
    assert len(select(index, Partition.whole(index), config, scores)) == 7


def test_a_gate_does_not_depend_on_the_order_of_the_index(
    tmp_path: Path, network: FeatureNetwork, source: tuple[SourceIndex, Partition], gate: Gate, night: Path
) -> None:
    index, partition = source
    order = np.random.default_rng(3).permutation(len(index))
    other = SourceIndex(index.table.take(order), index.classes)
    turned = Partition(partition.cluster[order], other.table, other.hash, method="kmeans", seed=0)
    z = score_gate(make(tmp_path / "gate", network, other, turned), night).z
    assert z == pytest.approx(score_gate(gate, night).z, abs=1e-4)


def test_a_gate_that_is_there_is_kept_and_equal_inputs_give_equal_files(
    tmp_path: Path, network: FeatureNetwork, source: tuple[SourceIndex, Partition], gate: Gate
) -> None:
    again = make(tmp_path / "gate", network, *source)
    assert again.hash == gate.hash
    before = {p.name: p.stat().st_mtime_ns for p in again.directory.iterdir()}
    make(tmp_path / "gate", network, *source)
    assert before == {p.name: p.stat().st_mtime_ns for p in again.directory.iterdir()}
    assert make(tmp_path / "gate", network, *source, l2=0.5).hash != gate.hash


def test_a_gate_on_a_network_of_detectron2_keeps_its_input(
    tmp_path: Path, source: tuple[SourceIndex, Partition]
) -> None:
    network = FeatureNetwork(empty_resnet("resnet18", MSRA), "resnet18", MSRA)
    loaded = make(tmp_path / "gate", network, *source).network()
    crops = torch.randint(0, 255, (2, CROP, CROP, 3), dtype=torch.uint8)
    torch.testing.assert_close(loaded(crops), network(crops), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(FeatureNetwork(network.body, "resnet18")(crops), network(crops), rtol=0.01)


def _cut(folder: Path) -> None:
    path = folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _flip(folder: Path) -> None:
    content = bytearray((folder / "classifier.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "classifier.safetensors").write_bytes(content)


def _edit(folder: Path) -> None:
    path = folder / "manifest.json"
    text, count = re.subn(r'"crop_size": 32', '"crop_size": 64', path.read_text())
    assert count
    path.write_text(text)


def _not_finite(folder: Path) -> None:
    path = folder / "manifest.json"
    text, count = re.subn(r'"l2": [0-9.e-]+', '"l2": NaN', path.read_text())
    assert count
    path.write_text(text)


def _unlisted(folder: Path) -> None:
    """A file is not listed, and the hash fits."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["classifier.safetensors"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "hash": gate_hash(manifest)}))


SPOILT = {
    "a file not listed": (_unlisted, "expected the files network.safetensors and classifier.safetensors"),
    "network cut short": (_cut, "network.safetensors is not a complete safetensors file"),
    "classifier changed": (_flip, "classifier.safetensors is not the file that the manifest names"),
    "manifest edited": (_edit, "manifest.json: its hash is not that of its content"),
    "a number not finite": (_not_finite, "manifest.json: its hash is not that of its content"),
    "classifier missing": (lambda f: (f / "classifier.safetensors").unlink(), "is missing: copy the whole"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "gate file not found"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_gate_is_refused_by_the_client_and_made_again_by_its_maker(
    case: str, tmp_path: Path, network: FeatureNetwork, source: tuple[SourceIndex, Partition], night: Path
) -> None:
    spoil, message = SPOILT[case]
    gate = make(tmp_path / "gate", network, *source)
    spoil(gate.directory)
    with pytest.raises(NDSError, match=message):
        score_gate(Gate.load(gate.directory), night)
    assert sum(score_gate(make(tmp_path / "gate", network, *source), night).z) == pytest.approx(1.0)


def test_scores_of_experts_and_of_a_gate_are_not_mixed_up(
    gate: Gate, night: Path, source: tuple[SourceIndex, Partition]
) -> None:
    scores = score_gate(gate, night)
    with pytest.raises(
        NDSError, match="the nds selector needs scores of experts, these are of metric posterior"
    ):
        select(*source, SelectionConfig(NDS(), count=5), scores)
    with pytest.raises(NDSError, match="scores of a gate are of metric 'posterior' alone, not 'accuracy'"):
        scores.with_metric("accuracy")
    with pytest.raises(NDSError, match="the gate selector needs the client's scores: score the gate first"):
        select(*source, SelectionConfig(GateSelector(), count=5))
