"""Scoring: the right expert wins, and nothing but images, experts and seed decides the scores."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_experts import TINY, trained, two_domains, write_domain

from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experts import forward
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import expert_file
from nds_plugin.experts.scores import METRICS, Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.supervised import cross_validate, stratified_folds
from nds_plugin.experts.tasks import rotations
from nds_plugin.images import crops, networks
from nds_plugin.images.crop_geometry import read_center_crop
from nds_plugin.images.networks import InferenceNetwork, normalise
from nds_plugin.source.index import SourceIndex

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FP32 = ScoringConfig("accuracy", precision="fp32", num_workers=0)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    """One expert of bright skies and one of dark ones, trained until they know theirs."""
    config = replace(TINY, shared_steps=5, steps=20, batch_size=6)
    return trained(tmp_path_factory.mktemp("trained"), config)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of bright skies that no expert has seen."""
    folder = tmp_path_factory.mktemp("target")
    write_domain(folder, 20, True, seed=1)
    return folder


@pytest.fixture(scope="module")
def scores(experts: ExpertSet, target: Path) -> Scores:
    return score_experts(experts, target, FP32, progress=False)


def assert_same(a: Scores, b: Scores) -> None:
    assert (a.z, a.stderr, a.details) == (b.z, b.stderr, b.details)


# --- what the scores say


def test_the_expert_of_the_targets_domain_scores_best(experts: ExpertSet, tmp_path: Path) -> None:
    for bright_top, best in ((True, 0), (False, 1)):
        folder = tmp_path / str(bright_top)
        write_domain(folder, 6, bright_top, seed=2)
        z = score_experts(experts, folder, FP32, progress=False).z
        assert z[best] > 0.8
        assert z[1 - best] < 0.6


def test_scores_are_those_of_the_plain_networks(experts: ExpertSet, target: Path, scores: Scores) -> None:
    paths = sorted(target.iterdir())
    images = torch.from_numpy(np.stack([read_center_crop(path, 32) for path in paths]))
    for k, cluster in enumerate(experts.clusters):
        with torch.no_grad():
            log_p = (
                experts.load_model(cluster)(normalise(rotations(images))).log_softmax(dim=1).view(20, 4, 4)
            )
        correct = (log_p.argmax(dim=2) == torch.arange(4)).double().mean(dim=1).numpy()
        right = log_p.diagonal(dim1=1, dim2=2).double().mean(dim=1).numpy()
        assert scores.z[k] == pytest.approx(correct.mean())
        assert scores.stderr[k] == pytest.approx(correct.std(ddof=1) / math.sqrt(20))
        likelihood = scores.details["log_likelihood"]
        assert likelihood["z"][k] == pytest.approx(right.mean(), abs=1e-4)
        assert likelihood["stderr"][k] == pytest.approx(right.std(ddof=1) / math.sqrt(20), abs=1e-4)


def test_relative_scores_are_the_difference_to_the_shared_network(scores: Scores) -> None:
    for name in ("accuracy", "log_likelihood"):
        relative = scores.with_metric(f"relative_{name}")
        shared = scores.details["shared"][name]["z"]
        assert relative.z == pytest.approx([z - shared for z in scores.details[name]["z"]])
        assert relative.metric == f"relative_{name}"


def test_bf16_tells_the_same(experts: ExpertSet, target: Path, scores: Scores) -> None:
    half = score_experts(experts, target, replace(FP32, precision="bf16"), progress=False)
    assert half.details["computed"]["precision"] == "bf16"
    np.testing.assert_allclose(half.z, scores.z, atol=0.03)
    np.testing.assert_allclose(
        half.details["log_likelihood"]["z"], scores.details["log_likelihood"]["z"], atol=0.1
    )


def test_one_image_has_a_standard_error_of_zero(experts: ExpertSet, target: Path) -> None:
    one = score_experts(experts, [str(min(target.iterdir()))], FP32, progress=False)
    assert (one.images, one.stderr) == (1, [0.0, 0.0])


def test_the_last_layer_stays_in_float32(experts: ExpertSet) -> None:
    network = InferenceNetwork(experts.load_model(0), torch.bfloat16)
    assert {p.dtype for p in network.trunk.parameters()} == {torch.bfloat16}
    assert network.head.weight.dtype == torch.float32
    assert not any("BatchNorm" in type(m).__name__ for m in network.modules())


@pytest.mark.parametrize("size", [112, 33, 7, 2, 1])
def test_the_fused_pooling_is_max_pooling_to_the_bit(size: int) -> None:
    inputs = torch.randn(2, 3, size, size + 1, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = torch.nn.functional.max_pool2d(inputs.relu(), 3, stride=2, padding=1)
    assert torch.equal(networks._PoolReLU()(inputs), expected)


# --- what they do not depend on


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 1), (1, 5), (3, 7), (0, 100)])
def test_scores_do_not_depend_on_workers_or_batch_size(
    experts: ExpertSet, target: Path, scores: Scores, num_workers: int, batch_size: int
) -> None:
    config = replace(FP32, num_workers=num_workers, batch_size=batch_size)
    assert_same(score_experts(experts, target, config, progress=False), scores)


def test_experts_that_do_not_fit_into_memory_score_the_same_and_images_are_decoded_once(
    experts: ExpertSet, target: Path, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()
    loaded: Counter[str] = Counter()

    def counting_read(path: str, *how: Any) -> np.ndarray:
        decoded[path] += 1
        return read_center_crop(path, *how)

    class CountingNetwork(InferenceNetwork):
        def __init__(self, *args: Any) -> None:
            loaded["networks"] += 1
            super().__init__(*args)

    monkeypatch.setattr(crops, "read_center_crop", counting_read)
    monkeypatch.setattr(forward, "InferenceNetwork", CountingNetwork)
    monkeypatch.setattr(forward, "micro_batch", lambda _: 16)
    config = replace(FP32, resident_mb=50, crops_mb=1)
    assert_same(score_experts(experts, target, config, progress=False), scores)
    assert sorted(decoded.values()) == [1] * 20
    assert loaded["networks"] == 3  # one chunk of crops, three networks one after the other
    monkeypatch.setattr(forward, "MEGABYTE", 48 * 1024)  # now a chunk holds 16 crops of 3 KB
    assert_same(score_experts(experts, target, config, progress=False), scores)
    assert sorted(decoded.values()) == [2] * 20
    assert loaded["networks"] == 3 + 6


def test_the_target_may_be_a_folder_a_list_or_an_index(
    experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path
) -> None:
    paths = [str(path) for path in sorted(target.iterdir())]
    assert_same(score_experts(experts, paths, FP32, progress=False), scores)
    index, _ = two_domains(tmp_path, 3)
    assert isinstance(index, SourceIndex)
    assert score_experts(experts, index, FP32, progress=False).images == 6


def test_a_draw_of_images_repeats_under_one_seed(experts: ExpertSet, target: Path) -> None:
    runs = [
        score_experts(experts, target, replace(FP32, max_images=5, seed=seed), progress=False)
        for seed in (1, 1, 2)
    ]
    assert [run.images for run in runs] == [5, 5, 5]
    assert_same(runs[0], runs[1])
    assert runs[0].details["log_likelihood"] != runs[2].details["log_likelihood"]


# --- broken images


def test_unreadable_images_are_counted_named_and_left_out(
    experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "target"))
    (folder / "000a.jpg").write_bytes(b"")
    (folder / "zzz.png").write_bytes(b"no image")
    damaged = score_experts(experts, folder, replace(FP32, num_workers=2, batch_size=3), progress=False)
    assert (damaged.images, damaged.unreadable) == (20, 2)
    assert_same(damaged, scores)
    assert "left out 2 of 22 images" in caplog.text
    assert "000a.jpg: the file is empty" in caplog.text


def test_a_target_without_readable_images_is_one_clear_line(experts: ExpertSet, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="no image in this folder"):
        score_experts(experts, tmp_path, FP32)
    with pytest.raises(NDSError, match="the target has no images"):
        score_experts(experts, [], FP32)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(NDSError, match=r"none of the target's 1 images can be read; first: .*not an image"):
        score_experts(experts, tmp_path, FP32, progress=False)


def test_a_damaged_expert_stops_the_scoring(experts: ExpertSet, target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(experts.directory, tmp_path / "experts", copy_function=os.link))
    data = (copy / expert_file(1)).read_bytes()
    (copy / expert_file(1)).unlink()
    (copy / expert_file(1)).write_bytes(data[:-10])
    with pytest.raises(NDSError, match="expert_0001.safetensors is not a complete safetensors file"):
        score_experts(ExpertSet.load(copy), target, FP32, progress=False)


# --- the artefact


def test_scores_survive_saving(scores: Scores, tmp_path: Path) -> None:
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores


def test_scores_of_other_experts_or_clusters_are_refused(scores: Scores, experts: ExpertSet) -> None:
    scores.check_matches(experts.hash, experts.clusters)
    with pytest.raises(NDSError, match="the scores are of another expert set: expected ffff, got"):
        scores.check_matches("ffff", [0, 1])
    with pytest.raises(NDSError, match=r"do not cover the 3 clusters: missing \[2\], unknown none"):
        scores.check_matches(experts.hash, [0, 1, 2])
    with pytest.raises(NDSError, match=r"do not cover the 1 clusters: missing none, unknown \[1\]"):
        scores.check_matches(experts.hash, [0])


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5"])
def test_a_score_that_is_no_finite_number_is_refused(scores: Scores, tmp_path: Path, value: Any) -> None:
    bad = replace(scores, z=[0.5, value])
    with pytest.raises(NDSError, match="z of cluster 1 is .*, not a finite number"):
        bad.check_matches(scores.expert_set, [0, 1])
    with pytest.raises(NDSError, match="not a finite number"):
        bad.save(tmp_path / "scores.json")
    assert not (tmp_path / "scores.json").exists()


def test_a_nan_written_by_other_hands_is_refused(scores: Scores, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    scores.save(path)
    text = path.read_text()
    path.write_text(text.replace(f' "z": [\n  {scores.z[0]!r},', ' "z": [\n  NaN,', 1))
    assert "NaN" in path.read_text()
    with pytest.raises(NDSError, match="z of cluster 0 is nan, not a finite number"):
        Scores.load(path)
    path.write_text(text.replace('"stderr": [', '"errors": [', 1))
    with pytest.raises(NDSError, match="field 'stderr' should be a list"):
        Scores.load(path)


def test_fewer_scores_than_clusters_are_refused(scores: Scores) -> None:
    with pytest.raises(NDSError, match="got 2 clusters, 1 z and 2 stderr"):
        replace(scores, z=scores.z[:1]).check_matches(scores.expert_set, [0, 1])


def test_an_unknown_metric_lists_the_known_ones(scores: Scores) -> None:
    for change in (lambda: replace(FP32, metric="acuracy"), lambda: scores.with_metric("acuracy")):
        with pytest.raises(
            UnknownNameError, match="unknown (scoring )?metric 'acuracy'. Did you mean 'accuracy'"
        ):
            change()
    details = {name: value for name, value in scores.details.items() if "relative" not in name}
    with pytest.raises(NDSError, match="hold no 'relative_accuracy': the experts have no shared network"):
        replace(scores, details=details).with_metric("relative_accuracy")
    assert set(METRICS) < set(scores.details)


def test_a_bad_setting_is_one_clear_line() -> None:
    with pytest.raises(NDSError, match="scoring max_images must be 1 or more, got 0"):
        ScoringConfig(max_images=0)
    with pytest.raises(UnknownNameError, match="unknown scoring precision 'int8'"):
        ScoringConfig(precision="int8")


# --- the supervised task


def test_a_linear_layer_on_separable_features_is_right_on_every_fold() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 8)) + 6 * np.eye(8)[labels]
    result = cross_validate(features, labels, folds=5, seed=0)
    assert result[:, 0].mean() == 1.0
    assert result[:, 1].mean() > -0.3
    np.testing.assert_array_equal(result, cross_validate(features, labels, folds=5, seed=0))


def test_features_that_know_nothing_score_near_chance() -> None:
    rng = np.random.default_rng(0)
    result = cross_validate(rng.normal(size=(300, 5)), rng.integers(0, 2, 300), folds=5, seed=0)
    assert 0.38 < result[:, 0].mean() < 0.62


def test_a_class_of_one_image_is_wrong_but_finite() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 10 + [1] * 10 + [2])
    result = cross_validate(rng.normal(size=(21, 4)) + 5 * np.eye(4)[labels], labels, folds=3, seed=0)
    assert result[20, 0] == 0
    assert np.isfinite(result).all()


def test_every_class_is_dealt_evenly_over_the_folds() -> None:
    targets = np.repeat([0, 1, 2], (10, 15, 5))
    part = stratified_folds(targets, 5, seed=3)
    for k, count in enumerate((2, 3, 1)):
        assert np.bincount(part[targets == k], minlength=5).tolist() == [count] * 5


def test_fewer_than_two_classes_are_an_error() -> None:
    with pytest.raises(NDSError, match="at least 2 classes, got 3 images of 1 classes"):
        cross_validate(np.zeros((3, 2)), np.zeros(3, dtype=np.int64), folds=2, seed=0)


def test_supervised_experts_are_scored_on_labelled_images(tmp_path: Path) -> None:
    supervised = trained(tmp_path, replace(TINY, task="supervised"), count=8)
    index, _ = two_domains(tmp_path / "target", 6)
    result = score_experts(supervised, index, FP32, progress=False)
    other = score_experts(
        supervised, index, replace(FP32, num_workers=1, batch_size=3, resident_mb=50), progress=False
    )
    assert_same(result, other)
    assert (result.task, result.images) == ("supervised", 12)
    assert min(result.z) > 0.7  # bright against dark skies: even weak features tell them apart
    with pytest.raises(NDSError, match="the target has no labels: give a dataset with annotations"):
        score_experts(supervised, tmp_path / "target", FP32)


# --- the tools


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_the_client_needs_only_images_experts_and_torch(
    experts: ExpertSet, target: Path, scores: Scores, tmp_path: Path
) -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv[0] = 'tools/score_experts.py'\n"
        "runpy.run_path('tools/score_experts.py', run_name='__main__')\n"
        "print('imported', [m for m in ('sklearn', 'detectron2', 'pycocotools', 'fvcore') if m in sys.modules])\n"
    )
    output = tmp_path / "scores.json"
    done = run_python(
        code, "--experts", experts.directory, "--images", target, "--output", output,
        "--precision", "fp32", "--metric", "log_likelihood", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "imported []" in done.stdout
    assert_same(Scores.load(output), scores.with_metric("log_likelihood"))


def test_a_users_mistake_is_one_line_and_status_2(experts: ExpertSet, tmp_path: Path) -> None:
    code = "import runpy, sys; runpy.run_path('tools/score_experts.py', run_name='__main__')"
    done = run_python(
        code, "--experts", experts.directory, "--images", tmp_path, "--output", tmp_path / "s.json"
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: no image in this folder")
    assert done.stderr.count("\n") == 1


def test_experts_are_trained_from_the_command_line(tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path, 4)
    index.save(tmp_path / "index.parquet", "k")
    partition.save(tmp_path / "partition.parquet", "k")
    code = "import runpy, sys; runpy.run_path('tools/train_experts.py', run_name='__main__')"
    done = run_python(
        code, "--index", tmp_path / "index.parquet", "--partition", tmp_path / "partition.parquet",
        "--output", tmp_path / "experts", "--kind", "network", "--crop-size", 32, "--steps", 1, "--shared-steps", 1,
        "--batch-size", 2, "--device", "cpu", "--no-amp",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    experts = ExpertSet.load(tmp_path / "experts")
    assert f"expert set {experts.hash[:12]}" in done.stdout
    assert experts.manifest["config"]["amp"] is False


def test_scores_are_read_without_torch() -> None:
    done = run_python("import nds_plugin.experts.scores, sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_a_gpu_scores_like_the_cpu(experts: ExpertSet, target: Path, scores: Scores) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for precision, tolerance in (("fp32", 1e-2), ("auto", 0.1)):
        config = replace(FP32, precision=precision, num_workers=2)
        found = score_experts(experts, target, config, torch.device("cuda"), progress=False)
        np.testing.assert_allclose(
            found.details["log_likelihood"]["z"], scores.details["log_likelihood"]["z"], atol=tolerance
        )
    assert networks.choose_device().type == "cuda"


def test_real_photographs_are_scored(nds_data: Path, experts: ExpertSet) -> None:
    folder = nds_data / "detection" / "ccp" / "images"
    result = score_experts(experts, folder, replace(FP32, max_images=8), CPU, progress=False)
    assert (result.images, result.unreadable) == (8, 0)
    assert all(0 <= z <= 1 for z in result.z)


def test_the_benchmark_refuses_what_it_cannot_measure_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    backbone_of_heads = importlib.import_module("expert_kinds").backbone_of_heads
    with pytest.raises(NDSError, match="--num-images must be 50 or more to fit 50 heads, got 49"):
        backbone_of_heads(["photo.jpg"] * 49)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NDSError, match="needs the package timm"):
        backbone_of_heads(["photo.jpg"] * 50)
