"""Laws of sources without experts: described by experts of others, and drawn from by what a client has sent already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_experts import two_domains, write_domain

from nds_plugin.command_line import run
from nds_plugin.commands import describe, draw
from nds_plugin.errors import NDSError
from nds_plugin.experts.describing import describe_source
from nds_plugin.experts.description import Description
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import METRICS, Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import HeadConfig, ScoringConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.images.backbones import load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.snds import ScalableNDS, similar_scores, similarities
from nds_plugin.source.folder import index_folder
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

FP32 = ScoringConfig(num_workers=0, precision="fp32")
Source = tuple[SourceIndex, Partition]


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    network = load_feature_network(shared_state=build_network(4, seed=0).state_dict())
    folder = tmp_path_factory.mktemp("heads")
    source = two_domains(folder / "source", 20)
    return train_heads(*source, network, HeadConfig(crop_size=32, c=0.01), folder / "experts", progress=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Another source of the same two domains, which no expert has seen."""
    folder = tmp_path_factory.mktemp("new")
    for bright_top in (True, False):
        write_domain(folder / f"bright_top_{bright_top}", 8, bright_top, seed=3)
    index = index_folder(folder)
    cluster = ["True" not in name for name in index.column("file_name")]
    return index, Partition(np.array(cluster), index.table, index.hash, method="kmeans", seed=0)


@pytest.fixture(scope="module")
def description(experts: ExpertSet, source: Source) -> Description:
    return describe_source(experts, *source, FP32, progress=False)


@pytest.fixture(scope="module")
def scores(experts: ExpertSet, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Of a client whose images are of the second domain."""
    folder = tmp_path_factory.mktemp("client")
    write_domain(folder, 10, False, seed=4)
    return score_experts(experts, folder, FP32, progress=False)


def test_a_description_is_how_the_experts_score_each_cluster(
    experts: ExpertSet, source: Source, description: Description
) -> None:
    index, partition = source
    for cluster in range(2):
        own = SourceIndex(index.table.take(partition.members(cluster)), index.classes)
        by_hand = score_experts(experts, own, FP32, progress=False)
        for metric in METRICS:
            assert description.vectors[metric][cluster] == by_hand.details[metric]["z"]
    assert (description.images, description.experts, description.expert_set) == ([8, 8], [0, 1], experts.hash)


def test_a_draw_of_each_cluster_describes_it_too(experts: ExpertSet, source: Source) -> None:
    found = describe_source(experts, *source, replace(FP32, max_images=3), progress=False)
    assert found.images == [3, 3]


def test_clusters_that_the_experts_hardly_tell_apart_are_warned_of(
    experts: ExpertSet, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    index, _ = source
    describe_source(experts, *source, FP32, progress=False)
    assert "hardly apart" not in caplog.text
    at_random = Partition(np.arange(len(index)) % 2, index.table, index.hash, method="kmeans", seed=0)
    describe_source(experts, index, at_random, FP32, progress=False)
    assert (
        "by log_likelihood, the numbers of 2 of 2 experts differ between the clusters hardly more"
        in caplog.text
    )


@pytest.mark.parametrize("similarity", ["cosine", "distance"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_client_draws_the_cluster_of_its_domain_from_a_source_that_no_expert_saw(
    similarity: str, metric: str, source: Source, description: Description, scores: Scores
) -> None:
    found = similar_scores(scores.with_metric(metric), description, similarity)
    assert found.z[1] > found.z[0]
    config = SelectionConfig(ScalableNDS(similarity=similarity), count=8)
    drawn = select(*source, config, found)
    assert drawn.column("cluster").to_pylist() == [1] * 8
    assert (drawn.info["metric"], drawn.info["cost"]["forward_passes"]) == ("similarity", 40)


def test_similarities_are_those_computed_by_hand() -> None:
    vectors, z = np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.0]]), np.array([0.5, 0.5])
    table, client = ((values - vectors.mean(axis=0)) / vectors.std(axis=0) for values in (vectors, z))
    cosine = [row @ client / np.linalg.norm(row) / np.linalg.norm(client) for row in table]
    np.testing.assert_allclose(similarities(z, vectors, "cosine"), cosine)
    distance = [-np.sqrt(((row - client) ** 2).mean()) for row in table]
    np.testing.assert_allclose(similarities(z, vectors, "distance"), distance)


@pytest.mark.parametrize("similarity", ["cosine", "distance"])
def test_an_expert_that_tells_nothing_of_the_clusters_changes_no_bit(similarity: str) -> None:
    rng = np.random.default_rng(0)
    vectors, z = rng.normal(size=(7, 5)), rng.normal(size=5)
    expected = similarities(z, vectors, similarity)
    for place in (0, 2, 5):
        found = similarities(np.insert(z, place, 9.0), np.insert(vectors, place, 0.5, axis=1), similarity)
        assert found.tolist() == expected.tolist()
    assert similarities([0.3], [[0.5], [0.5]], similarity).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("similarity", ["cosine", "distance"])
def test_a_client_that_is_a_cluster_is_most_like_it_whatever_the_unit_of_a_metric(similarity: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5))
    for k in range(7):
        found = similarities(vectors[k], vectors, similarity)
        assert found.argmax() == k
        scaled = similarities(3 * vectors[k] - 2, 3 * vectors - 2, similarity)
        np.testing.assert_allclose(scaled, found, atol=1e-12)


def test_one_cluster_has_nothing_to_be_compared_with_and_gets_all() -> None:
    for similarity in ("cosine", "distance"):
        z = similarities([0.3, 0.1], [[0.5, 0.5]], similarity)
        assert ScalableNDS().cluster_weights(z, np.array([4])).tolist() == [1.0]


def test_sources_described_apart_are_described_together(experts: ExpertSet, tmp_path: Path) -> None:
    parts = []
    for name, bright in (("a", True), ("b", False)):
        write_domain(tmp_path / name, 5, bright, seed=7)
        index = index_folder(tmp_path / name)
        parts.append((index, Partition.whole(index)))
    whole = SourceIndex.join([index for index, _ in parts])
    partition = Partition.join([cut for _, cut in parts], whole)
    assert partition.cluster.tolist() == [0] * 5 + [1] * 5
    partition.check_matches(whole)
    apart = [describe_source(experts, *part, FP32, progress=False) for part in parts]
    together = describe_source(experts, whole, partition, FP32, progress=False)
    assert Description.join(apart, partition.hash) == together


def test_what_does_not_belong_together_is_refused(
    source: Source, description: Description, scores: Scores
) -> None:
    with pytest.raises(NDSError, match="the scores are of another expert set"):
        similar_scores(replace(scores, expert_set="f" * 64), description, "cosine")
    accuracy_alone = replace(description, vectors={"accuracy": description.vectors["accuracy"]})
    with pytest.raises(NDSError, match="the description holds no 'log_likelihood', only accuracy"):
        similar_scores(scores.with_metric("log_likelihood"), accuracy_alone, "cosine")
    with pytest.raises(NDSError, match="described by different experts"):
        Description.join([description, replace(description, expert_set="e" * 64)], "p")
    with pytest.raises(
        NDSError, match="needs scores of a described source, these are of metric log_likelihood"
    ):
        select(*source, SelectionConfig(ScalableNDS(), count=3), replace(scores, partition=""))
    with pytest.raises(NDSError, match="needs scores of experts, these are of metric similarity"):
        select(*source, SelectionConfig(NDS(), count=3), similar_scores(scores, description, "cosine"))
    other = replace(description, partition="d" * 64)
    with pytest.raises(NDSError, match="the description is of another partition: .* describe this partition"):
        select(*source, SelectionConfig(ScalableNDS(), count=3), similar_scores(scores, other, "cosine"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": {"accuracy": [[0.1, 0.2]]}}, "accuracy should be 2 lists"),
        ({"vectors": {"accuracy": [[0.1, 0.2], [0.3]]}}, "accuracy should be 2 lists"),
        ({"vectors": {"accuracy": [[0.1, 0.2], [0.3, "x"]]}}, "accuracy should be 2 lists"),
        ({"vectors": {"taste": [[0.1, 0.2], [0.3, 0.4]]}}, "expected vectors of accuracy"),
        ({"vectors": {}}, "expected vectors of"),
        ({"images": "many"}, "field 'images' should be a list"),
        ({"images": []}, "expected vectors of"),
    ],
)
def test_a_file_of_other_shapes_is_refused(
    change: dict[str, Any], message: str, description: Description, tmp_path: Path
) -> None:
    path = tmp_path / "description.json"
    with pytest.raises(NDSError, match="the description's accuracy is not finite"):
        replace(description, vectors={"accuracy": [[0.1, 0.2], [0.3, float("nan")]]}).save(path)
    description.save(path)
    assert Description.load(path) == description
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(NDSError, match=message):
        Description.load(path)


def test_the_tools_go_from_a_new_source_to_a_draw(
    experts: ExpertSet, source: Source, scores: Scores, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, partition = source
    index.save(tmp_path / "index.parquet", index.hash)
    partition.save(tmp_path / "partition.parquet", partition.hash)
    scores.save(tmp_path / "scores.json")
    made = ["--index", str(tmp_path / "index.parquet"), "--partition", str(tmp_path / "partition.parquet")]
    described = [str(tmp_path / "description.json")]
    describe.main([*made, "--experts", str(experts.directory), "--output", *described, "--num-workers", "0"])
    assert "2 clusters described by 2 experts" in capsys.readouterr().out
    out = ["--images", "8", "--output", str(tmp_path / "drawn.parquet")]
    by = ["--selector", "snds", "--scores", str(tmp_path / "scores.json")]
    draw.main([*made, *by, "--description", *described, *out])
    assert Selection.load(tmp_path / "drawn.parquet").column("cluster").to_pylist() == [1] * 8
    for extra, message in (
        (by, "--selector snds needs --description"),
        ([*by[2:], "--description", *described], "--description goes with --selector snds"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run(lambda extra=extra: draw.main([*made, *extra, *out]))  # type: ignore[misc]
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
