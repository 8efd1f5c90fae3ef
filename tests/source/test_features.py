"""Laws of feature extraction and of loading the network: what must not change a feature, and what must."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from detectron2_resnets import detectron2_resnet, to_caffe2
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import load_arrays
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.crop_geometry import center_crop
from nds_plugin.images.input_form import IMAGENET, MSRA
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


def resnet(name: str = "resnet18", seed: int = 0) -> torch.nn.Module:
    """A ResNet with random weights and random batch statistics, in eval mode."""
    torch.manual_seed(seed)
    network = getattr(torchvision.models, name)(weights=None, num_classes=4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.2, 0.6)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_feature_network(None, resnet().state_dict())


@pytest.fixture(scope="module")
def plain(index: SourceIndex, network: FeatureNetwork) -> Plain:
    return extract_features(index, network, CROP, batch_size=32, num_workers=0)


def crops(count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)


def features_of_fc_input(network: Any, inputs: torch.Tensor) -> torch.Tensor:
    """What the last layer of a torchvision ResNet gets, for RGB inputs normalised ImageNet's way."""
    seen = []
    handle = network.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        network(((inputs.float() / 255 - mean) / std).permute(0, 3, 1, 2))
    handle.remove()
    return seen[0]


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
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvision_checkpoints_give_the_features_before_the_last_layer(name: str, tmp_path: Path) -> None:
    original = resnet(name)
    path = tmp_path / "weights.pth"
    torch.save(original.state_dict(), path)
    loaded = load_feature_network(str(path))
    assert loaded.name == name
    assert torch.allclose(loaded(crops()), features_of_fc_input(original, crops()), atol=1e-5)


def test_safetensors_and_wrapped_checkpoints_are_the_same_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = resnet()
    expected = features_of_fc_input(original, crops())
    save_file(original.state_dict(), tmp_path / "shared.safetensors")
    prefixed = {f"module.encoder_q.{k}": v for k, v in original.state_dict().items()}
    torch.save({"state_dict": prefixed, "epoch": 3}, tmp_path / "wrapped.pth.tar")
    for name in ("shared.safetensors", "wrapped.pth.tar"):
        assert torch.allclose(load_feature_network(tmp_path / name)(crops()), expected, atol=1e-5)


def to_detectron2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as Detectron2's own converter of torchvision's checkpoints gives them."""
    renamed = {}
    for name, value in state.items():
        name = name if "layer" in name else f"stem.{name}"
        for i in (1, 2, 3, 4):
            name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[name] = value
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_converted_pickle_is_read_as_torchvisions_network(name: str, protocol: int, tmp_path: Path) -> None:
    original = resnet(name)
    arrays = {k: v.numpy() for k, v in to_detectron2(original.state_dict()).items()}
    path = tmp_path / "R.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = load_feature_network(path)
    assert loaded.form == IMAGENET
    assert torch.allclose(loaded(crops()), features_of_fc_input(original, crops()), atol=1e-5)


def detectron2_features(network: torch.nn.Module, inputs: torch.Tensor, config: Any) -> torch.Tensor:
    """As GeneralizedRCNN prepares its default BGR input."""
    mean, std = torch.tensor(config.MODEL.PIXEL_MEAN), torch.tensor(config.MODEL.PIXEL_STD)
    with torch.no_grad():
        out = network(((inputs.flip(-1).float() - mean) / std).permute(0, 3, 1, 2))
    return out["res5"].mean(dim=(2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_a_default_detectron2_checkpoint_gives_detectron2s_own_features(depth: int, tmp_path: Path) -> None:
    network, config = detectron2_resnet(depth, msra=depth >= 50)
    state = {f"backbone.bottom_up.{k}": v for k, v in network.state_dict().items()}
    state["proposal_generator.rpn_head.conv.weight"] = torch.zeros(2)
    torch.save({"model": state, "iteration": 7}, tmp_path / "model_final.pth")
    loaded = load_feature_network(tmp_path / "model_final.pth")
    assert loaded.form == MSRA
    expected = detectron2_features(network, crops(), config)
    assert torch.allclose(loaded(crops()), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
def test_caffe2_names_are_read_as_detectron2_reads_them(tmp_path: Path) -> None:
    network, config = detectron2_resnet(50, msra=True)
    arrays = to_caffe2(network.state_dict())
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res5_2_branch2c_bn_b"} < arrays.keys()
    arrays["conv1_b"] = np.zeros(64, np.float32)
    arrays["fc1000_w"] = np.zeros((1000, 2048), np.float32)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(arrays, 2))
    expected = detectron2_features(network, crops(), config)
    found = load_feature_network(path)(crops())
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))

    from detectron2.checkpoint import DetectionCheckpointer

    again, _ = detectron2_resnet(50, msra=True)
    for parameter in again.parameters():
        parameter.data.zero_()
    DetectionCheckpointer(again).load(str(path))
    assert torch.allclose(detectron2_features(again, crops(), config), expected, rtol=1e-3, atol=1e-3)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_pickle_that_would_run_a_command_is_refused(suffix: str, tmp_path: Path) -> None:
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    content = {"model": {"conv1.weight": np.zeros(3, np.float32), "x": _Harmful(trace)}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
        message = r"is refused: its pickle asks for posix.system, expected only numpy arrays"
    else:
        torch.save(content, path)
        message = "cannot be read without running code from it"
    with pytest.raises(NDSError, match=message) as error:
        load_feature_network(path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "numpy.ndarray.tofile", "torch.load"])
def test_no_other_global_name_is_known_to_the_unpickler(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.partition(".")
    path = tmp_path / "x.pkl"
    text = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)]
    path.write_bytes(b"\x80\x04" + text[0] + text[1] + b"\x93.")
    with pytest.raises(NDSError, match=f"its pickle asks for {name}"):
        load_arrays(path)


def test_a_pickle_changes_none_of_the_functions_that_read_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(NDSError, match="its pickle asks for the state of a function"):
        load_arrays(path)


@pytest.mark.slow
def test_files_that_hold_no_usable_network_are_refused(tmp_path: Path) -> None:
    state = resnet().state_dict()

    def check(content: Any, message: str, name: str = "x.pth") -> None:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(NDSError, match=message) as error:
            load_feature_network(path)
        assert "\n" not in str(error.value)

    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    check(whole.read_bytes()[:5000], "cannot be read without running code from it, or is cut short")
    check(b"not a pickle", "is not a whole pickle of arrays", "x.pkl")
    check(pickle.dumps({"a": np.zeros(9000)})[:5000], "is not a whole pickle of arrays", "x.pkl")
    check(b"1234567890", "is not a whole safetensors file", "x.safetensors")
    check({"a.weight": torch.zeros(3)}, "holds no ResNet: expected a name that ends in one of layer1.0.conv1")
    check([1, 2], "holds a list, expected a dict of weights")
    two = {f"{p}.{k}": v for p in ("left", "right") for k, v in state.items()}
    check(two, r"holds 2 ResNets \(left., right.\): save only one")
    short = {k: v for k, v in state.items() if not k.startswith("layer4")}
    check(short, r"has stages of \(2, 2, 2, 0\) basic blocks; expected one of resnet18")
    check(
        {k: v for k, v in state.items() if k != "bn1.weight"}, "lacks 1 weights of resnet18, first bn1.weight"
    )
    check({**state, "layer1.0.se.fc.weight": torch.ones(1)}, "has 1 weights that resnet18 does not have")
    check({**state, "bn1.bias": torch.full((64,), torch.nan)}, r"x\.pth: bn1.bias holds NaN or an infinity")
    check(b"", "x.pth is empty")
    wide = torchvision.models.wide_resnet50_2(weights=None).state_dict()
    check(wide, r"layer1.0.conv1.weight has shape \(128, 64, 1, 1\), resnet50 has \(64, 64, 1, 1\)")
    with pytest.raises(NDSError, match=r"no such file: /nowhere\.pth"):
        load_feature_network("/nowhere.pth")
    with pytest.raises(NDSError, match="expected either the path of a checkpoint or a state dict"):
        load_feature_network(None)


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
