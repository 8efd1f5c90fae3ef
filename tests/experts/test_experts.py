"""Experts: repeatable, resumable, the same on any number of workers and ranks, and checked when read."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from ranks import Ranks
from safetensors.torch import save_file
from tiny_experts import TINY, edit_manifest, trained, two_domains, write_domain

from nds_plugin.engine.executor import LocalExecutor
from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experts.expert_set import ExpertSet, load_network, read_network, write_network
from nds_plugin.experts.manifest import expert_file
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.experts.tasks import RotationTask, get_task, rotations
from nds_plugin.experts.train_experts import (
    experts_key,
    is_complete,
    prepare_shared,
    train_cluster_experts,
    train_experts,
    train_shared,
    write_manifest,
)
from nds_plugin.experts.train_network import TrainingSet, learning_rate, train_network
from nds_plugin.files.artifacts import read_json
from nds_plugin.images.crops import RandomCrops
from nds_plugin.images.networks import build_network, choose_device, cpu_has_bf16, resolve_precision
from nds_plugin.source.index import NO_LABEL, ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def copy(experts: ExpertSet, tmp_path: Path) -> Path:
    """The experts in a folder of their own, to do damage to; see :func:`overwrite`."""
    copy = Path(shutil.copytree(experts.directory, tmp_path / "experts", copy_function=os.link))
    overwrite(copy / "manifest.json", (copy / "manifest.json").read_bytes())
    return copy


def overwrite(path: Path, data: bytes) -> None:
    """Replace a file that is a hard link, and leave the other names of it as they are."""
    path.unlink()
    path.write_bytes(data)


def train_tiny(paths: list[str], config: ExpertConfig = TINY, steps: int = 3) -> dict[str, torch.Tensor]:
    data = TrainingSet("cluster 0", 1, paths, np.zeros(len(paths), dtype=np.int64))
    return train_network(data, RotationTask(), config, steps, CPU, progress=False)[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- training


def test_one_seed_gives_the_same_bits_for_any_number_of_workers_and_another_seed_others(
    tmp_path: Path,
) -> None:
    paths = write_domain(tmp_path, 7, True)
    first = train_tiny(paths)
    assert same(first, train_tiny(paths))
    assert same(first, train_tiny(paths, replace(TINY, num_workers=2)))
    assert not same(first, train_tiny(paths, replace(TINY, seed=1)))


def test_training_leaves_the_global_random_states_alone(tmp_path: Path) -> None:
    paths = write_domain(tmp_path, 4, True)
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_tiny(paths, replace(TINY, num_workers=1), steps=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


@pytest.mark.slow
def test_an_expert_learns_its_domain(tmp_path: Path) -> None:
    data = TrainingSet("cluster 0", 1, write_domain(tmp_path, 10, True), np.zeros(10, dtype=np.int64))
    config = replace(TINY, batch_size=8)
    _, stats = train_network(data, RotationTask(), config, 25, CPU, progress=False)
    assert stats.train_accuracy > 0.8
    assert (stats.images, stats.steps, stats.unreadable, stats.precision) == (10, 25, [], "fp32")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    paths = write_domain(tmp_path, 4, True)
    with pytest.raises(
        NDSError, match="cluster 0: the training loss is not finite at step .*lower --base-lr"
    ):
        train_tiny(paths, replace(TINY, base_lr=1e30), steps=8)


def test_the_learning_rate_warms_up_and_falls_towards_zero() -> None:
    rates = [learning_rate(TINY, step, 100) for step in range(100)]
    assert np.argmax(rates) in (4, 5)
    assert max(rates) == TINY.base_lr
    assert 0 < rates[-1] < 0.01 * TINY.base_lr
    assert np.all(np.diff(rates[5:]) < 0)


def test_the_four_rotations_of_a_crop_are_one_group() -> None:
    crops = torch.arange(2 * 3 * 3 * 3, dtype=torch.uint8).view(2, 3, 3, 3)
    turned = rotations(crops)
    for image in range(2):
        for k in range(4):
            expected = np.rot90(crops[image].numpy(), k)
            np.testing.assert_array_equal(turned[4 * image + k].numpy(), expected)
    inputs, targets = RotationTask().batch(crops, torch.zeros(2))
    assert inputs.shape == (8, 3, 3, 3)
    assert targets.tolist() == [0, 1, 2, 3] * 2


# --- the stream of crops


def test_every_epoch_holds_every_image_once_in_another_order(tmp_path: Path) -> None:
    stream = RandomCrops(write_domain(tmp_path, 6, True), 16, 18, seed=0, stream=1)
    epochs = [[stream.row(6 * epoch + i) for i in range(6)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_element_depends_on_its_position_only(tmp_path: Path) -> None:
    paths = write_domain(tmp_path, 5, True)
    forward = RandomCrops(paths, 16, 20, seed=3, stream=1, cache_bytes=1 << 20)
    first = [forward[n].crop for n in range(20)]
    again = [forward[n].crop for n in range(20)]  # now from the cache
    alone = [RandomCrops(paths, 16, 20, seed=3, stream=1)[n].crop for n in reversed(range(20))][::-1]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, alone)
    other = [RandomCrops(paths, 16, 20, seed=3, stream=2)[n].crop for n in range(20)]
    assert not np.array_equal(first, other)


def test_an_image_is_cropped_anew_every_time_it_comes(tmp_path: Path) -> None:
    stream = RandomCrops(write_domain(tmp_path, 1, True), 16, 8, seed=0, stream=1)
    assert len({stream[n].crop.tobytes() for n in range(8)}) == 8


def test_an_unreadable_image_is_replaced_from_its_cluster_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write_domain(tmp_path, 12, True)
    Path(paths[4]).write_bytes(b"broken")
    data = TrainingSet("cluster 3", 4, paths, np.zeros(12, dtype=np.int64))
    runs = [
        train_network(data, RotationTask(), replace(TINY, num_workers=n), 6, CPU, progress=False)
        for n in (0, 2)
    ]
    assert runs[0][1].unreadable == ["004.png"]
    assert same(runs[0][0], runs[1][0])
    assert "cluster 3: replaced an unreadable image" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_a_tenth_unreadable_is_one_clear_line(tmp_path: Path, workers: int) -> None:
    paths = write_domain(tmp_path, 12, True)
    for path in paths[:2]:
        Path(path).write_bytes(b"broken")
    with pytest.raises(
        NDSError, match="cluster 0: 2 of its 12 images cannot be read, more than 10%"
    ) as error:
        train_tiny(paths, replace(TINY, num_workers=workers), steps=12)
    assert "\n" not in str(error.value)


def test_a_cluster_without_any_readable_image_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="cluster 0: 2 of its 2 images cannot be read"):
        train_tiny([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")])


# --- a whole set


def test_the_manifest_says_all_that_scoring_needs(experts: ExpertSet) -> None:
    manifest = experts.manifest
    assert experts.clusters == [0, 1]
    assert experts.task == "rotation"
    assert (manifest["arch"], manifest["crop_size"], manifest["resize_size"]) == ("resnet18", 32, 37)
    assert manifest["sources"] == ["day", "night"]
    assert [entry["images"] for entry in manifest["experts"]] == [20, 20]
    assert [entry["steps"] for entry in manifest["experts"]] == [2, 2]
    assert all(0 <= entry["train_accuracy"] <= 1 for entry in manifest["experts"])
    assert experts.load_model(0).fc.out_features == 4
    assert not experts.load_model(1).training


def test_experts_are_the_same_on_one_rank_and_on_two(experts: ExpertSet, tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path)
    out = tmp_path / "ranks"
    prepare_shared(index, TINY, out, progress=False)
    for rank in (1, 0):
        executor = LocalExecutor(Ranks(rank, 2), progress=False)
        assert train_cluster_experts(index, partition, TINY, out, executor=executor) == [rank]
    assert write_manifest(index, partition, TINY, out).hash == experts.hash
    for name in (expert_file(0), expert_file(1), "shared.safetensors", "manifest.json"):
        assert (out / name).read_bytes() == (experts.directory / name).read_bytes()


def test_a_killed_run_goes_on_with_what_is_missing(copy: Path, tmp_path: Path, experts: ExpertSet) -> None:
    index, partition = two_domains(tmp_path)
    key = experts_key(index, partition, TINY)
    assert is_complete(copy, key)
    whole = (copy / expert_file(1)).read_bytes()
    overwrite(copy / expert_file(1), whole[: len(whole) // 2])  # killed while copying, say
    assert not is_complete(copy, key)
    times = {name: os.stat(copy / name).st_mtime_ns for name in (expert_file(0), "shared.safetensors")}
    assert train_cluster_experts(index, partition, TINY, copy, progress=False) == [1]
    assert (copy / expert_file(1)).read_bytes() == whole
    assert times == {name: os.stat(copy / name).st_mtime_ns for name in times}
    assert train_experts(index, partition, TINY, copy, progress=False).hash == experts.hash


def test_another_config_trains_again_and_more_workers_do_not(copy: Path, tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path)
    more = replace(TINY, num_workers=2)
    assert train_cluster_experts(index, partition, more, copy, progress=False) == []
    other = replace(TINY, steps=1)
    assert not is_complete(copy, experts_key(index, partition, other))
    assert train_cluster_experts(index, partition, other, copy, progress=False) == [0, 1]


def test_experts_start_from_the_shared_network(tmp_path: Path, experts: ExpertSet) -> None:
    index, partition = two_domains(tmp_path)
    with pytest.raises(NDSError, match=r"expert file not found: .*shared\.safetensors"):
        train_cluster_experts(index, partition, TINY, tmp_path / "none", progress=False)
    with pytest.raises(NDSError, match=r"is of another index or config: run prepare_shared first"):
        train_cluster_experts(index, partition, replace(TINY, seed=9), experts.directory, progress=False)
    scratch = replace(TINY, init="scratch", shared_steps=0, steps=1)
    alone = train_experts(index, partition, scratch, tmp_path / "scratch", progress=False)
    assert not alone.has_shared
    with pytest.raises(NDSError, match="holds no shared network"):
        alone.load_shared()
    with pytest.raises(NDSError, match=r"--shared-steps .* is 0"):
        train_shared(index, scratch)


def test_a_partition_of_another_index_is_refused(tmp_path: Path) -> None:
    index, _ = two_domains(tmp_path / "a", 4)
    _, partition = two_domains(tmp_path / "b", 5)
    with pytest.raises(NDSError, match="partition"):
        train_cluster_experts(index, partition, TINY, tmp_path, progress=False)


# --- the supervised task


def labelled(folder: Path, labels: list[int]) -> tuple[SourceIndex, Partition]:
    paths = write_domain(folder, len(labels), True)
    rows = [ImageRecord("s", str(i), p, label=k) for i, (p, k) in enumerate(zip(paths, labels))]
    index = SourceIndex.from_records(rows, classes=("car", "dog", "cup"))
    return index, Partition(np.arange(len(labels)) % 2, index.table, index.hash, method="kmeans", seed=0)


@pytest.mark.slow
def test_supervised_experts_skip_images_without_a_label(tmp_path: Path) -> None:
    index, partition = labelled(tmp_path, [0, 1, 2, NO_LABEL, NO_LABEL, 0])
    config = replace(TINY, task="supervised", steps=1, shared_steps=1)
    experts = train_experts(index, partition, config, tmp_path / "experts", progress=False)
    assert experts.manifest["classes"] == ["car", "dog", "cup"]
    assert [entry["images"] for entry in experts.manifest["experts"]] == [2, 2]
    assert [entry["cluster_images"] for entry in experts.manifest["experts"]] == [3, 3]
    assert experts.load_model(0).fc.out_features == 3


def test_a_cluster_without_labels_is_an_error(tmp_path: Path) -> None:
    index, partition = labelled(tmp_path, [0, NO_LABEL, 1, NO_LABEL])
    config = replace(TINY, task="supervised", init="scratch", shared_steps=0, steps=1)
    with pytest.raises(NDSError, match="cluster 1: none of its 2 images has a label"):
        train_experts(index, partition, config, tmp_path / "experts", progress=False)
    with pytest.raises(NDSError, match="needs a source of at least 2 classes, got 1"):
        get_task("supervised", ["car"])


# --- damaged files


def test_a_file_cut_short_is_one_clear_line(copy: Path) -> None:
    whole = (copy / expert_file(0)).read_bytes()
    for length in (len(whole) // 2, 100, 4, 0):
        overwrite(copy / expert_file(0), whole[:length])
        with pytest.raises(NDSError, match="is not a complete safetensors file") as error:
            ExpertSet.load(copy).load_model(0)
        assert "\n" not in str(error.value)


def test_a_tampered_file_is_refused(copy: Path) -> None:
    data = bytearray((copy / expert_file(1)).read_bytes())
    data[-5] ^= 1
    overwrite(copy / expert_file(1), bytes(data))
    with pytest.raises(NDSError, match="is not the file that the manifest names: expected SHA-256"):
        ExpertSet.load(copy).load_model(1)
    with pytest.raises(NDSError, match="is not the file that the manifest names"):
        ExpertSet.load(copy).verify()


def test_a_file_of_other_shapes_or_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_network(path, build_network(7).state_dict(), {"key": "k", "outputs": 7})
    assert load_network(path).fc.out_features == 7
    with pytest.raises(NDSError, match=r"tensor 'fc.weight' should be \(4, 512\) float32 .* got \(7, 512\)"):
        load_network(path, outputs=4)
    weights = build_network(4).state_dict()
    weights["fc.bias"] = torch.full((4,), float("nan"))
    write_network(path, weights, {"key": "k", "outputs": 4})
    with pytest.raises(NDSError, match="'fc.bias' holds values that are not finite"):
        load_network(path)
    del weights["fc.bias"]
    write_network(path, weights, {"key": "k", "outputs": 4})
    with pytest.raises(NDSError, match="1 tensors are missing or unknown for resnet18, first 'fc.bias'"):
        load_network(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(NDSError, match="not one that nds_plugin wrote"):
        read_network(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ('"crop_size": 32,\n "res', '"crop_size": 40,\n "res', "this release takes them from 46"),
        ('"seed": 0', '"seed": 1', "changed by hand"),
        ('"arch": "resnet18"', '"arch": "resnet50"', "architecture 'resnet50'"),
        (r'"file": "expert_0000', '"file": "../expert_0000', "lies outside the folder"),
        ('"mean": ', '"average": ', "field 'mean' should be of type list"),
        ('"steps": 2,\n   "train', '"steps": "2",\n   "train', "field 'steps' should be of type int"),
        ('"kind": "experts"', '"kind": "scores"', "expected a file of kind 'experts', got 'scores'"),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(
    copy: Path, pattern: str, replacement: str, message: str
) -> None:
    edit_manifest(copy, pattern, replacement)
    with pytest.raises(NDSError, match=message):
        ExpertSet.load(copy)


def test_a_missing_manifest_expert_or_cluster_is_an_error(copy: Path) -> None:
    with pytest.raises(NDSError, match="no expert of cluster 2 in .*; it has"):
        ExpertSet.load(copy).load_model(2)
    (copy / expert_file(1)).unlink()
    with pytest.raises(NDSError, match="1 of 3 expert files are missing, first expert_0001"):
        ExpertSet.load(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(NDSError, match="experts file not found"):
        ExpertSet.load(copy)


def test_a_manifest_is_not_written_over_a_missing_expert(copy: Path, tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path)
    (copy / expert_file(1)).unlink()
    with pytest.raises(NDSError, match="expert_0001.safetensors is missing, cut short or made from other"):
        write_manifest(index, partition, TINY, copy)
    assert read_json(copy / "manifest.json", "experts")["hash"]


# --- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "rotatoin"}, "unknown expert task 'rotatoin'. Did you mean 'rotation'"),
        ({"init": "warm"}, "unknown expert init 'warm'.*Known: scratch, shared"),
        ({"precision": "fp8"}, "unknown expert precision 'fp8'"),
        ({"steps": 0}, "expert steps must be 1 or more, got 0"),
        ({"shared_steps": 0}, "expert shared_steps must be 1 or more, got 0"),
        ({"base_lr": 0.0}, "expert base_lr must be above 0"),
        ({"seed": -1}, "expert seed must be 0 or more"),
    ],
)
def test_a_bad_setting_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        replace(TINY, **change)


def test_precision_follows_the_device() -> None:
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert resolve_precision("fp32", CPU) == torch.float32
    with pytest.raises(NDSError, match="'fp16' needs a GPU"):
        resolve_precision("fp16", CPU)
    with pytest.raises(UnknownNameError, match="unknown device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(NDSError, match="torch sees . GPUs here"):
        choose_device("cuda:99")


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_training_on_a_gpu_repeats_and_learns(tmp_path: Path, gpu: torch.device, precision: str) -> None:
    data = TrainingSet("cluster 0", 1, write_domain(tmp_path, 10, True), np.zeros(10, dtype=np.int64))
    config = replace(TINY, batch_size=8, precision=precision)
    runs = [train_network(data, RotationTask(), config, 25, gpu, progress=False) for _ in range(2)]
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1].train_accuracy > 0.8


def test_experts_start_from_a_checkpoint_of_their_network(tmp_path: Path) -> None:
    paths = write_domain(tmp_path / "images", 4, True)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "imagenet.pth")
    still = replace(TINY, pretrained=str(tmp_path / "imagenet.pth"), base_lr=1e-12)
    found = train_tiny(paths, still, steps=1)
    assert torch.allclose(found["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"], atol=1e-6)
    assert found["fc.weight"].shape == (4, 512)
    assert TINY.identity() == {k: v for k, v in still.identity().items() if k != "pretrained"} | {
        "base_lr": TINY.base_lr
    }
    shutil.copy(tmp_path / "imagenet.pth", tmp_path / "copy.pth")
    assert replace(still, pretrained=str(tmp_path / "copy.pth")).identity() == still.identity()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    paths = write_domain(tmp_path / "images", 4, True)
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(
        NDSError, match=r"deeper\.pth is a resnet34 of RGB images; experts .* are each a resnet18"
    ):
        train_tiny(paths, replace(TINY, pretrained=str(tmp_path / "deeper.pth")), steps=1)
    with pytest.raises(NDSError, match=r"no such file: nowhere\.pth"):
        replace(TINY, pretrained="nowhere.pth")
