"""Laws of feature extraction: what must not change a feature, and what must."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from random_resnets import resnet

from nds_plugin.errors import NDSError
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.crop_geometry import center_crop
from nds_plugin.images.input_form import IMAGENET
from nds_plugin.images.resnet_checkpoints import empty_resnet
from nds_plugin.source import features as features_module
from nds_plugin.source.features import MICRO_BATCH, extract_features, features_key
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

CROP = 32
Plain = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SourceIndex:
    """75 images, of which number 40 is cut short; the last micro-batch is not full."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    records = []
    for i in range(75):
        pixels = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(pixels).save(path)
        records.append(ImageRecord("a", str(i), str(path), 64, 48))
    broken = folder / "40.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return SourceIndex.from_records(records)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_feature_network(None, resnet().state_dict())


@pytest.fixture(scope="module")
def plain(index: SourceIndex, network: FeatureNetwork) -> Plain:
    return extract_features(index, network, CROP, batch_size=32, num_workers=0)


def test_features_are_unit_vectors_of_the_central_crops(
    index: SourceIndex, network: FeatureNetwork, plain: Plain
) -> None:
    features, readable = plain
    assert features.shape == (75, 512)
    assert features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features[readable], axis=1), 1, atol=1e-5)
    crop = center_crop(Image.open(index[74].file_name), CROP)
    expected = network(torch.from_numpy(crop)[None])[0].numpy()
    assert np.allclose(features[74], expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (64, 0), (1000, 0), (32, 1), (64, 2)])
def test_features_do_not_depend_on_batch_size_or_workers(
    index: SourceIndex, network: FeatureNetwork, plain: Plain, batch_size: int, num_workers: int
) -> None:
    features, readable = extract_features(
        index, network, CROP, batch_size=batch_size, num_workers=num_workers
    )
    assert (features == plain[0]).all()
    assert (readable == plain[1]).all()


def test_a_feature_does_not_depend_on_how_many_images_follow(
    index: SourceIndex, network: FeatureNetwork, plain: Plain
) -> None:
    for count in (65, 33, 1):
        features, _ = extract_features(SourceIndex(index.table.slice(0, count)), network, CROP)
        assert (features == plain[0][:count]).all()


def test_an_unreadable_image_is_marked_and_named(
    index: SourceIndex, network: FeatureNetwork, plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    assert np.flatnonzero(~plain[1]).tolist() == [40]
    assert not plain[0][40].any()
    extract_features(index, network, CROP)
    assert "1 of 75 images cannot be read" in caplog.text
    assert index[40].file_name in caplog.text


def test_a_broken_neighbour_does_not_change_a_feature(
    index: SourceIndex, network: FeatureNetwork, plain: Plain
) -> None:
    whole = [index[i] for i in range(75)]
    whole[40] = ImageRecord(**{**vars(whole[40]), "file_name": whole[0].file_name})
    features, readable = extract_features(SourceIndex.from_records(whole), network, CROP)
    assert readable.all()
    others = np.arange(75) != 40
    assert (features[others] == plain[0][others]).all()
    assert np.allclose(features[40], features[0], atol=1e-6)


def test_a_source_of_mostly_unreadable_images_stops_and_keeps_nothing(
    index: SourceIndex, network: FeatureNetwork, tmp_path: Path
) -> None:
    records = [index[i] for i in range(20)]
    records[3:6] = [ImageRecord(**{**vars(r), "file_name": "/nowhere.jpg"}) for r in records[3:6]]
    with pytest.raises(NDSError, match=r"3 of 20 images cannot be read.*First: /nowhere.jpg: no such image"):
        extract_features(SourceIndex.from_records(records), network, CROP, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


class _KilledError(Exception):
    pass


def test_a_killed_extraction_goes_on_where_it_was(
    index: SourceIndex, network: FeatureNetwork, plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "SHARD_SIZE", MICRO_BATCH)
    run = features_module.Extractor.run
    passed: list[int] = []

    def killed_in_the_second(self: Any, paths: list[str], progress: Any) -> Any:
        if len(passed) == 1:
            raise _KilledError
        passed.append(len(paths))
        return run(self, paths, progress)

    monkeypatch.setattr(features_module.Extractor, "run", killed_in_the_second)
    with pytest.raises(_KilledError):
        extract_features(index, network, CROP, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1

    def counted(self: Any, paths: list[str], progress: Any) -> Any:
        passed.append(len(paths))
        return run(self, paths, progress)

    monkeypatch.setattr(features_module.Extractor, "run", counted)
    passed.clear()
    for _ in range(2):  # the second time, nothing is left to do
        features, readable = extract_features(index, network, CROP, cache_dir=tmp_path)
        assert (features == plain[0]).all()
        assert (readable == plain[1]).all()
    assert passed == [32, 11]


def test_a_damaged_shard_is_made_again(
    index: SourceIndex,
    network: FeatureNetwork,
    plain: Plain,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    extract_features(index, network, CROP, cache_dir=tmp_path)
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:-10])
    features, _ = extract_features(index, network, CROP, cache_dir=tmp_path)
    assert (features == plain[0]).all()
    assert "is made again" in caplog.text


def test_an_image_that_can_be_read_again_gets_its_feature(
    index: SourceIndex, network: FeatureNetwork, tmp_path: Path
) -> None:
    records = [index[i] for i in range(20)]
    late = tmp_path / "late.png"
    records[7] = ImageRecord(**{**vars(records[7]), "file_name": str(late)})
    source, cache = SourceIndex.from_records(records), tmp_path / "cache"
    assert not extract_features(source, network, CROP, cache_dir=cache)[1][7]
    Image.open(records[0].file_name).save(late)
    assert extract_features(source, network, CROP, cache_dir=cache)[1].all()


@pytest.mark.slow
def test_the_key_follows_images_network_and_crop_and_old_shards_go(
    index: SourceIndex, network: FeatureNetwork, tmp_path: Path
) -> None:
    other = load_feature_network(None, resnet(seed=1).state_dict())
    fewer = SourceIndex(index.table.slice(1))
    arguments = [(index, network, 32), (index, network, 48), (index, other, 32), (fewer, network, 32)]
    assert len({features_key(*a) for a in arguments}) == 4
    assert features_key(index, network, 32) == features_key(*arguments[0])
    (tmp_path / "mine.npy").write_bytes(b"")
    seen = set()
    for a in arguments:
        extract_features(*a, cache_dir=tmp_path)
        (kept,) = {path.name for path in tmp_path.iterdir()} - {"mine.npy"}
        seen.add(kept)
    assert len(seen) == 4


def test_broken_weights_are_refused(index: SourceIndex) -> None:
    state = resnet().state_dict()
    state["layer4.1.bn2.weight"][:] = 3e38
    with pytest.raises(NDSError, match="outputs are not finite: its weights are broken"):
        extract_features(index, load_feature_network(None, state), CROP)


@pytest.mark.parametrize("argument", ["crop_size", "batch_size"])
def test_numbers_out_of_range_are_refused(index: SourceIndex, network: FeatureNetwork, argument: str) -> None:
    arguments: dict[str, Any] = {"crop_size": CROP, "batch_size": 32, argument: 0}
    with pytest.raises(NDSError, match=f"{argument} must be at least 1, got 0"):
        extract_features(index, network, **arguments)


@pytest.mark.slow
def test_the_tool_writes_index_shared_network_and_partition_and_keeps_them(
    index: SourceIndex, tmp_path: Path
) -> None:
    folder = os.path.dirname(index[0].file_name)
    root = str(Path(__file__).parents[2])
    command = [
        sys.executable, os.path.join(root, "tools", "partition_source.py"), "--folder", folder,
        "--num-clusters", "3", "--crop-size", "32", "--shared-steps", "2", "--shared-batch", "4",
        "--num-workers", "0", "--device", "cpu", "--output", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], env=environment, capture_output=True, text=True)

    first = run()
    assert first.returncode == 0, first.stderr
    partition = Partition.load(tmp_path / "partition.parquet")
    partition.check_matches(SourceIndex.load(tmp_path / "index.parquet"))
    assert partition.num_clusters == 3
    assert (tmp_path / "experts" / "shared.safetensors").is_file()
    again = run()
    assert "partition.parquet is there and up to date" in again.stderr
    refused = run("--num-clusters", "100")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: cannot cut 75 images into 100 clusters")


def test_keys_of_features_stay_what_they_were() -> None:
    """Finished partitions are found by these keys: another one would cut every source anew."""
    resnet = empty_resnet("resnet18", IMAGENET)
    for tensor in resnet.state_dict().values():
        tensor.zero_()
    alike = SourceIndex.from_records([ImageRecord("a", "1", "x.png", 4, 4)])
    key = features_key(alike, FeatureNetwork(resnet, "resnet18", IMAGENET), 64)
    assert key == "99f38086362e7e3318375b67cc47978365ff0631c0a4b0364bd7debdc128d5b4"
