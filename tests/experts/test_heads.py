"""Head experts: one backbone, a classifier per cluster; what they say and what they do not depend on."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks
from safetensors.torch import load_file
from tiny_experts import edit_manifest, two_domains, write_domain

from nds_plugin.engine.executor import LocalExecutor
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, write_network
from nds_plugin.experts.heads import Heads
from nds_plugin.experts.manifest import BACKBONE, HEADS, MANIFEST, check_set_file, set_hash
from nds_plugin.experts.scores import METRICS, Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import HeadConfig, ScoringConfig
from nds_plugin.experts.tasks import rotations
from nds_plugin.experts.train_heads import fit_head, train_heads
from nds_plugin.files.artifacts import file_hash
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.crop_geometry import read_center_crop
from nds_plugin.images.networks import build_network
from nds_plugin.service.client.export import export_fastadapt
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

ROOT = Path(__file__).parents[2]
TINY = HeadConfig(crop_size=32, c=0.01)
FP32 = ScoringConfig(num_workers=0)


def backbone(seed: int = 0) -> FeatureNetwork:
    """A torchvision network of random weights: needs no timm."""
    return load_feature_network(shared_state=build_network(4, seed=seed).state_dict())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceIndex, Partition]:
    return two_domains(tmp_path_factory.mktemp("source"), 20)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, source: tuple[SourceIndex, Partition]) -> ExpertSet:
    folder = tmp_path_factory.mktemp("heads") / "experts"
    return train_heads(*source, backbone(), TINY, folder, progress=False)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    write_domain(folder, 19, True, seed=1)
    return folder


@pytest.fixture(scope="module")
def scores(experts: ExpertSet, target: Path) -> Scores:
    return score_experts(experts, target, FP32, progress=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_features_that_a_killed_run_has_left_go(
    experts: ExpertSet, source: tuple[SourceIndex, Partition]
) -> None:
    left = experts.directory / "features"
    left.mkdir()
    train_heads(*source, backbone(), TINY, experts.directory, progress=False)
    assert not left.exists()


# --- what the scores say


def test_the_head_of_the_targets_domain_scores_best_by_every_metric(
    experts: ExpertSet, tmp_path: Path
) -> None:
    for bright_top, best in ((True, 0), (False, 1)):
        folder = tmp_path / str(bright_top)
        write_domain(folder, 8, bright_top, seed=2)
        found = score_experts(experts, folder, FP32, progress=False)
        for metric in METRICS:
            z = found.with_metric(metric).z
            assert z[best] > z[1 - best]
        assert found.with_metric("accuracy").z[best] > 0.9


def test_z_is_features_then_softmax_computed_by_hand(
    experts: ExpertSet, target: Path, scores: Scores
) -> None:
    network, state = experts.load_backbone(), load_file(experts.directory / HEADS)
    crops = torch.from_numpy(np.stack([read_center_crop(path, 32) for path in list_images(target)]))
    with torch.no_grad():
        features = network(rotations(crops)).double().numpy()  # images in their four rotations

    def by_hand(weight: Any, bias: Any) -> tuple[Any, Any]:
        logits = features @ weight.double().numpy().T + bias.double().numpy()
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p = p.reshape(19, 4, 4)
        accuracy = (p.argmax(axis=2) == np.arange(4)).mean(axis=1)
        return accuracy, np.log(p[:, np.arange(4), np.arange(4)]).mean(axis=1)

    shared = by_hand(state["shared.weight"], state["shared.bias"])
    for k in experts.clusters:
        for column, metric in enumerate(("accuracy", "log_likelihood")):
            values = by_hand(state["weight"][k], state["bias"][k])[column]
            for name, expected in ((metric, values), (f"relative_{metric}", values - shared[column])):
                details = scores.details[name]
                assert details["z"][k] == pytest.approx(expected.mean(), abs=1e-5)
                # The difference is taken image by image: its error is smaller than that of two means.
                assert details["stderr"][k] == pytest.approx(expected.std(ddof=1) / math.sqrt(19), abs=1e-5)


def test_a_head_is_scikit_learns_regression_on_standardised_features() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features = (rng.normal(3, 2, (30, 4, 6)) + np.arange(4)[:, None]).astype(np.float32)
    rows, rotation = features.reshape(-1, 6), np.tile(np.arange(4), 30)
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(rows), rotation)
    weight, bias, accuracy, loss = fit_head(features, scaler.mean_, scaler.scale_, 0.1)
    p = model.predict_proba(scaler.transform(rows))
    np.testing.assert_allclose(torch.tensor(rows @ weight.T + bias).softmax(dim=1), p, atol=1e-3)
    assert accuracy == pytest.approx(model.score(scaler.transform(rows), rotation), abs=1e-6)
    assert loss == pytest.approx(-np.log(p[np.arange(120), rotation]).mean(), abs=1e-3)


def test_the_client_pays_four_forward_passes_an_image_whatever_k(scores: Scores) -> None:
    assert (scores.cost.images, scores.cost.forward_passes) == (19, 4 * 19)


# --- what they do not depend on


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("cores", "workers", "batch_size"), [(1, 0, 1), (2, 1, 33), (4, 3, 7)])
def test_heads_repeat_bit_by_bit_on_any_number_of_cores_workers_and_batches(
    source: tuple[SourceIndex, Partition], experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path,
    threads: None, cores: int, workers: int, batch_size: int,
) -> None:  # fmt: skip
    torch.set_num_threads(cores)
    config = replace(TINY, num_workers=workers, batch_size=batch_size)
    again = train_heads(*source, backbone(), config, tmp_path / "again", progress=False)
    for name in (BACKBONE, HEADS):
        assert file_hash(again.directory / name) == file_hash(experts.directory / name)
    assert again.hash == experts.hash
    found = score_experts(
        again, target, replace(FP32, num_workers=workers, batch_size=batch_size), progress=False
    )
    assert (found.z, found.stderr, found.details) == (scores.z, scores.stderr, scores.details)


def with_heads(experts: ExpertSet, folder: Path, heads: list[int]) -> ExpertSet:
    """The set with these heads in place of its own, as clusters 0, 1, ..."""
    shutil.copytree(experts.directory, folder)
    old = experts.load_heads()
    new = Heads(old.weight[heads].clone(), old.bias[heads].clone(), old.shared_weight, old.shared_bias)
    write_network(folder / HEADS, new.state(), {"key": "k"})
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["experts"] = [{**manifest["experts"][k], "cluster": i} for i, k in enumerate(heads)]
    manifest["heads"]["sha256"] = file_hash(folder / HEADS)
    manifest["hash"] = set_hash(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return ExpertSet.load(folder)


def test_a_clients_result_for_a_cluster_does_not_depend_on_the_others_or_their_number(
    experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path
) -> None:
    for number, heads in enumerate(([1], [1, 0], [0, 1, 0, 1, 1] * 5)):
        found = score_experts(
            with_heads(experts, tmp_path / str(number), heads), target, FP32, progress=False
        )
        for metric in METRICS:
            ours, theirs = scores.details[metric], found.details[metric]
            assert theirs["z"] == [ours["z"][k] for k in heads]
            assert theirs["stderr"] == [ours["stderr"][k] for k in heads]


def test_another_backbone_is_another_expert_set(
    source: tuple[SourceIndex, Partition], experts: ExpertSet, target: Path, tmp_path: Path
) -> None:
    """And a folder of the one is not taken for the other's."""
    folder = tmp_path / "experts"
    shutil.copytree(experts.directory, folder)
    nudged = backbone()
    with torch.no_grad():
        nudged.body.conv1.weight[0, 0, 0, 0] += 1e-3
    other = train_heads(*source, nudged, TINY, folder, progress=False)
    assert other.hash != experts.hash
    with pytest.raises(NDSError, match="of another expert set"):
        score_experts(other, target, FP32, progress=False).check_matches(experts.hash, experts.clusters)


def test_a_backbone_that_was_exchanged_is_refused(experts: ExpertSet, target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    shutil.copytree(experts.directory, folder)
    write_network(folder / BACKBONE, backbone(1).body.state_dict(), {"key": "k"})
    with pytest.raises(NDSError, match="backbone.safetensors is not the file that the manifest names"):
        score_experts(ExpertSet.load(folder), target, FP32, progress=False)


# --- training


@pytest.mark.slow
def test_a_set_that_is_there_is_kept_and_a_share_and_a_seed_are_other_sets(
    source: tuple[SourceIndex, Partition], experts: ExpertSet, tmp_path: Path
) -> None:
    folder = tmp_path / "experts"
    shutil.copytree(experts.directory, folder)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert train_heads(*source, backbone(), TINY, folder, progress=False).hash == experts.hash
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    half = replace(TINY, share=0.5)
    found = train_heads(*source, backbone(), half, folder, progress=False)
    assert [entry["images"] for entry in found.manifest["experts"]] == [10, 10]
    again = train_heads(*source, backbone(), half, tmp_path / "again", progress=False)
    other = train_heads(*source, backbone(), replace(half, seed=1), tmp_path / "other", progress=False)
    assert found.hash == again.hash
    assert len({experts.hash, found.hash, other.hash}) == 3


def test_heads_are_the_same_on_one_rank_and_on_two(
    source: tuple[SourceIndex, Partition], experts: ExpertSet, tmp_path: Path
) -> None:
    for rank in (1, 0, 1, 0):  # each comes as far as the other's files allow; the main one writes the set
        executor = LocalExecutor(Ranks(rank, 2), progress=False)
        with contextlib.suppress(NDSError, OSError):
            train_heads(*source, backbone(), TINY, tmp_path, executor=executor)
        assert (tmp_path / MANIFEST).exists() <= (rank == 0)
    assert ExpertSet.load(tmp_path).hash == experts.hash


def broken_source(folder: Path, broken: int) -> tuple[SourceIndex, Partition]:
    index, partition = two_domains(folder, 20)
    for path in index.column("file_name")[:broken]:
        Path(path).write_bytes(b"no image")
    return index, partition


def test_unreadable_images_are_left_out_and_named_and_too_many_are_refused(tmp_path: Path) -> None:
    found = train_heads(
        *broken_source(tmp_path / "a", 2), backbone(), TINY, tmp_path / "heads", progress=False
    )
    first = found.manifest["experts"][0]
    assert (first["images"], first["cluster_images"], first["unreadable"]) == (18, 20, ["000.png", "001.png"])
    with pytest.raises(NDSError, match="cluster 0: 3 of its 20 images cannot be read, more than 10%"):
        train_heads(*broken_source(tmp_path / "b", 3), backbone(), TINY, tmp_path / "none", progress=False)


def test_unreadable_images_of_the_client_are_counted(
    experts: ExpertSet, target: Path, tmp_path: Path
) -> None:
    shutil.copytree(target, tmp_path / "images")
    (tmp_path / "images" / "000.png").write_bytes(b"no image")
    found = score_experts(experts, tmp_path / "images", FP32, progress=False)
    assert (found.images, found.unreadable, found.cost.forward_passes) == (18, 1, 72)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "supervised"}, "head experts know the task 'rotation' alone, got 'supervised'"),
        ({"c": 0.0}, "expert c must be above 0"),
        ({"share": 1.5}, "expert share must be above 0 and 1 or less"),
        ({"crop_size": 4}, "expert crop_size must be 8 to 1024"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        replace(TINY, **change)


# --- the set on disk


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (
            '"expert_kind": "head"',
            '"expert_kind": "tail"',
            "experts of kind 'tail', this release reads network and",
        ),
        ('"arch": "resnet18"', '"arch": "resnet34"', "its hash is not that of its content"),
        ('"features": 512', '"features": 0', "0 features, expected 1 to"),
        ('"order": "RGB"', '"order": "XYZ"', "the input's order is 'XYZ'"),
        ('"file": "backbone.safetensors"', '"file": "../backbone.safetensors"', "lies outside the folder"),
        ('"file": "heads.safetensors"', '"file": 3', "field 'file' should be of type str"),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(
    experts: ExpertSet, tmp_path: Path, pattern: str, replacement: str, message: str
) -> None:
    shutil.copytree(experts.directory, tmp_path / "experts")
    edit_manifest(tmp_path / "experts", re.escape(pattern), replacement)
    with pytest.raises(NDSError, match=message):
        ExpertSet.load(tmp_path / "experts")


def test_headers_are_checked_without_torch(experts: ExpertSet, tmp_path: Path) -> None:
    for name in (BACKBONE, HEADS):
        check_set_file(experts.directory / name, experts.manifest, name)
        cut = tmp_path / name
        cut.write_bytes((experts.directory / name).read_bytes()[:-4])
        with pytest.raises(NDSError, match="is not a complete safetensors file"):
            check_set_file(cut, experts.manifest, name)
    with pytest.raises(
        NDSError, match=r"tensor 'weight' should be F32 \[2, 4, 100\] in 2 heads of 4 outputs"
    ):
        check_set_file(experts.directory / HEADS, {**experts.manifest, "features": 100}, HEADS)
    write_network(tmp_path / "half.safetensors", {"a": torch.zeros(2).half()}, {"key": "k"})
    with pytest.raises(NDSError, match="tensor 'a' is F16"):
        check_set_file(tmp_path / "half.safetensors", experts.manifest, BACKBONE)


def test_a_set_holds_k_times_4_d_and_4_numbers(experts: ExpertSet) -> None:
    sizes = {name: tensor.numel() for name, tensor in load_file(experts.directory / HEADS).items()}
    assert sizes["weight"] + sizes["bias"] == 2 * (4 * 512 + 4)
    assert sorted(path.name for path in experts.directory.iterdir()) == [BACKBONE, HEADS, MANIFEST]


def test_heads_are_no_networks_of_their_own_and_are_not_exported(experts: ExpertSet, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="its experts are heads on one backbone"):
        experts.load_model(0)
    with pytest.raises(NDSError, match="runs a ResNet-18 per expert and cannot run heads") as error:
        export_fastadapt(experts, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_tools_train_and_score_heads(
    source: tuple[SourceIndex, Partition], experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path
) -> None:
    index, partition = source
    index.save(tmp_path / "index.parquet", index.hash)
    partition.save(tmp_path / "partition.parquet", partition.hash)
    write_network(tmp_path / "shared.safetensors", build_network(4).state_dict(), {"key": "k", "outputs": 4})

    def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    made = ["--index", "index.parquet", "--partition", "partition.parquet", "--output", "experts"]
    how = ["--kind", "head", "--network", "shared.safetensors", "--crop-size", "32", "--c", "0.01"]
    done = tool("train_experts.py", *made, *how)
    assert done.returncode == 0, done.stderr
    assert ExpertSet.load(tmp_path / "experts").hash == experts.hash
    done = tool(
        "score_experts.py", "--experts", "experts", "--images", str(target), "--output", "scores.json"
    )
    assert done.returncode == 0, done.stderr
    assert Scores.load(tmp_path / "scores.json").z == scores.z
    for arguments, message in (
        ([*made, *how, "--steps", "5"], "--steps is of experts of kind 'network'"),
        ([*made, "--kind", "network", "--c", "0.5"], "--c is of experts of kind 'head'"),
    ):
        done = tool("train_experts.py", *arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert message in done.stderr
