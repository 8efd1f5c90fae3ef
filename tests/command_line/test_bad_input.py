"""Mistakes in arguments, configs and artefacts: one clear line on stderr, exit status 2, nothing lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_user import User, bomb, cut, edit_json, full_disk, litter
from tiny_experts import TINY, two_domains

from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.data.loader import build_nds_train_loader
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import read_network, write_network
from nds_plugin.experts.manifest import set_hash
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.files.artifacts import file_hash
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.uniform import Uniform
from nds_plugin.source.partition import Partition

Spoil = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the tools make; each test spoils a copy."""
    folder = tmp_path_factory.mktemp("made")
    index, partition = two_domains(folder, 6)
    index.save(folder / "index.parquet", "i")
    partition.save(folder / "partition.parquet", "p")
    swapped = Partition(1 - index.column("label"), index.table, index.hash, method="kmeans", seed=0)
    swapped.save(folder / "other_partition.parquet", "p")
    experts = train_experts(index, partition, TINY, folder / "experts", progress=False)
    config = ScoringConfig(num_workers=0, max_images=2)
    score_experts(experts, index, config, progress=False).save(folder / "scores.json")
    select(index, partition, SelectionConfig(Uniform(), count=3)).save(folder / "selection.parquet", "s")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the working directory."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def _scores(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return lambda folder: edit_json(folder / "scores.json", change)


def _drop_last(scores: dict[str, Any]) -> None:
    for name in ("clusters", "z", "stderr"):
        scores[name].pop()


# What is spoilt, what is added to the command line, and what the line must say.
DRAW: dict[str, tuple[Spoil | None, list[str], str]] = {
    "budget of 0": (
        None,
        ["--images", "0"],
        "budget as a number of images or as a share .*: got 0 images and a share of 0",
    ),
    "budget below 0": (None, ["--images", "-1"], "budget must be 1 to 12"),
    "budget beyond the images": (None, ["--images", "13"], "budget must be 1 to 12, .* got 13"),
    "share of 0": (None, ["--share", "0"], "got 0 images and a share of 0"),
    "share above 1": (None, ["--share", "1.5"], r"share of the source to draw must lie in \(0, 1\], got 1.5"),
    "T of 0": (None, ["--temperature", "0"], "--temperature must be above 0, got 0.0"),
    "T below 0": (None, ["--temperature", "-1"], "--temperature must be above 0, got -1.0"),
    "T of NaN": (None, ["--temperature", "nan"], "--temperature must be a number above 0, got nan"),
    "T of a uniform draw": (
        None,
        ["--selector", "uniform", "--temperature", "0.3"],
        "--temperature does nothing for the selector uniform: leave it out",
    ),
    "a gate's draw by experts": (
        None,
        ["--gate-draw", "softmax"],
        "--gate-draw does nothing for the selector nds",
    ),
    "unknown selector": (None, ["--selector", "nsd"], "command line: .*invalid choice: 'nsd' .*uniform"),
    "wrong type": (None, ["--images", "many"], "command line: .* invalid int value: 'many'; .*--help"),
    "unknown argument": (None, ["--imagse", "3"], "command line: unrecognized arguments: --imagse"),
    "NaN score": (_scores(lambda s: s["z"].__setitem__(1, np.nan)), [], "z of cluster 1 is nan"),
    "one score missing": (_scores(_drop_last), [], r"scores are of clusters \[0\], the partition has 0 to 1"),
    "scores of another partition": (
        None,
        ["--partition", "other_partition.parquet"],
        "scores are of an expert set of another partition: expected .*, got ",
    ),
    "scores of another expert set": (
        _scores(lambda s: s.update(expert_set="0" * 64)),
        ["--experts", "experts"],
        "scores are of another expert set: expected .*, got 000000000000",
    ),
    "scores cut short": (lambda f: cut(f / "scores.json"), [], "scores.json is not a complete JSON file"),
    "no scores at all": (
        None,
        ["--scores", "experts/manifest.json"],
        "expected a file of kind 'scores', got 'experts'",
    ),
    "scores not given": (None, ["--scores", ""], "needs the client's scores"),
    "index cut short": (lambda f: cut(f / "index.parquet"), [], "index.parquet is not a complete Parquet"),
    "partition missing": (lambda f: (f / "partition.parquet").unlink(), [], "partition file not found: part"),
    "output is a folder": (
        lambda f: (f / "experts.parquet").mkdir(),
        ["--output", "experts.parquet"],
        "cannot write experts.parquet: Is a directory",
    ),
    "output of another ending": (None, ["--output", "drawn"], "--output must end in .parquet, got 'drawn'"),
    "output below a file": (
        None,
        ["--output", "scores.json/x.parquet"],
        "cannot write scores.json/x.*: a file is where",
    ),
}


@pytest.mark.parametrize("case", DRAW)
def test_draw_subset_refuses(case: str, here: Path, user: User) -> None:
    spoil, extra, message = DRAW[case]
    (here / "drawn.parquet").write_text("an earlier draw")
    if spoil:
        spoil(here)
    inputs = ["--index", "index.parquet", "--partition", "partition.parquet", "--scores", "scores.json"]
    budget = [] if {"--images", "--share"} & set(extra) else ["--images", "4"]
    line = user.fails("draw_subset", *inputs, *budget, "--output", "drawn.parquet", *extra)
    assert re.search(message, line), line
    assert (here / "drawn.parquet").read_text() == "an earlier draw"
    assert not litter(here)


@pytest.mark.parametrize("name", ["coco_2017_train", "sample_city_val", "mine_annotated"])
def test_a_draw_is_not_called_as_another_dataset(name: str, user: User) -> None:
    line = user.fails("draw_subset", "--index", "index.parquet", "--images", "4", "--name", name)
    assert f"there is a dataset 'nds_{name}' already: give the selection another name" in line


EXPERT = "experts/expert_0001.safetensors"


def _other_shapes(folder: Path) -> None:
    """An expert of seven outputs, with a manifest that knows its hash."""
    weights, header = read_network(folder / EXPERT)
    weights["fc.weight"] = weights["fc.weight"].new_zeros(7, 512)
    write_network(folder / EXPERT, weights, header)

    def change(manifest: dict[str, Any]) -> None:
        manifest["experts"][1]["sha256"] = file_hash(folder / EXPERT)
        manifest["hash"] = set_hash(manifest)

    edit_json(folder / "experts/manifest.json", change)


def _spoilt_photos(folder: Path) -> None:
    for photo in (folder / "night").iterdir():
        bomb(photo)


SCORE: dict[str, tuple[Spoil | None, list[str], str]] = {
    "expert cut short": (lambda f: cut(f / EXPERT), [], "expert_0001.* is not a complete safetensors file"),
    "expert of other shapes": (_other_shapes, [], r"'fc.weight' should be \(4, 512\).*got \(7, 512\)"),
    "expert missing": (
        lambda f: (f / EXPERT).unlink(),
        [],
        "1 of 3 expert files are missing, first expert_0001",
    ),
    "experts swapped": (
        lambda f: shutil.copy(f / "experts/expert_0000.safetensors", f / EXPERT),
        [],
        "expert_0001.* is not the file that the manifest names",
    ),
    "manifest cut short": (
        lambda f: cut(f / "experts/manifest.json"),
        [],
        "manifest.json is not a complete JSON",
    ),
    "no experts": (None, ["--experts", "nowhere"], "experts file not found: nowhere/manifest.json"),
    "folder without images": (
        lambda f: (f / "empty").mkdir(),
        ["--images", "empty"],
        "empty: no image in this folder",
    ),
    "no such folder": (None, ["--images", "nowhere"], "nowhere: no such folder"),
    "only bombs": (_spoilt_photos, [], "none of the target's 6 images can be read; .*decompression bomb"),
    "only bombs, in workers": (
        _spoilt_photos,
        ["--num-workers", "2"],
        "none of the target's 6 images can be read",
    ),
    "unknown metric": (
        None,
        ["--metric", "acuracy"],
        "unknown --metric 'acuracy'. Did you mean 'accuracy'",
    ),
    "unknown device": (None, ["--device", "gpu"], "unknown device 'gpu': expected 'cpu'"),
    "device without numbers": (None, ["--device", "meta"], "unknown device 'meta': expected 'cpu'"),
    "no such GPU": (None, ["--device", "cuda:63"], "device 'cuda:63': torch sees . GPUs here"),
    "fewer images than one": (None, ["--max-images", "-1"], "--max-images must be 1 or more, got -1"),
    "output below a file": (None, ["--output", "scores.json/s.json"], "cannot write scores.json: "),
}


@pytest.mark.parametrize("case", SCORE)
def test_score_experts_refuses(case: str, here: Path, user: User) -> None:
    spoil, extra, message = SCORE[case]
    before = (here / "scores.json").read_bytes()
    if spoil:
        spoil(here)
    inputs = ["--experts", "experts", "--images", "night", "--output", "scores.json", "--num-workers", "0"]
    line = user.fails("score_experts", *inputs, "--device", "cpu", *extra)
    assert re.search(message, line), line
    assert (here / "scores.json").read_bytes() == before
    assert not litter(here)


PARTITION: dict[str, tuple[list[str], str]] = {
    "K larger than the images": (["--num-clusters", "7"], "cannot cut 6 images into 7 clusters: lower"),
    "K of 0": (["--num-clusters", "0"], "--num-clusters must be 1 or more, got 0"),
    "unknown method": (["--method", "kmean"], "unknown --method 'kmean'. Did you mean 'kmeans'"),
    "unknown dataset": (["--dataset", "coco_2017_trian"], "unknown dataset 'coco_2017_trian'. Did you mean"),
    "no such GPU": (["--device", "cuda:63"], "device 'cuda:63': torch sees . GPUs here"),
    "weights are none": (["--weights", "scores.json"], "scores.json is no checkpoint, it begins with"),
    "annotations missing": (["--coco", "no.json", "night"], "annotation file not found: .*no.json"),
    "not COCO": (
        ["--coco", "scores.json", "night"],
        "scores.json is not COCO json: 'images' must be a list, got a int",
    ),
    "not JSON": (["--coco", "index.parquet", "night"], "index.parquet is not a JSON text file"),
    "one path too few": (["--coco", "scores.json"], "command line: argument --coco: expected 2 arguments"),
    "output below a file": (["--output", "scores.json/o"], "cannot write scores.json/o/.*: a file is where"),
    "a batch of no training": (["--shared-batch", "4"], "--shared-batch is of a shared network"),
    "two networks": (
        ["--shared-steps", "4", "--network", "resnet18"],
        "--shared-steps trains a network for the features",
    ),
    "no steps": (["--shared-steps", "0"], "--shared-steps must be 1 or more, got 0: leave it out"),
}


@pytest.mark.parametrize("case", PARTITION)
def test_partition_source_refuses(case: str, here: Path, user: User) -> None:
    extra, message = PARTITION[case]
    line = user.fails(
        "partition_source", "--folder", "night", "--output", "out", "--num-clusters", "2", *extra
    )
    assert re.search(message, line), line
    assert not litter(here)


TRAIN: dict[str, tuple[list[str], str]] = {
    "unknown task": (["--task", "rotate"], "unknown --task 'rotate'. Did you mean 'rotation'"),
    "no steps": (["--steps", "0"], "--steps must be 1 or more, got 0"),
    "momentum below 0": (["--momentum", "-1"], "--momentum must be 0 or more, got -1.0"),
    "partition of another index": (["--index", "other.parquet"], "partition does not belong to this index"),
    "index is a partition": (
        ["--index", "partition.parquet"],
        "expected a file of kind 'index', got 'partit",
    ),
    "wrong type": (["--crop-size", "big"], "command line: argument --crop-size: invalid int value: 'big'"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_train_experts_refuses(case: str, here: Path, user: User) -> None:
    extra, message = TRAIN[case]
    if "other.parquet" in extra:
        two_domains(here / "others", 5)[0].save("other.parquet", "i")
    inputs = ["--index", "index.parquet", "--partition", "partition.parquet", "--output", "new"]
    small = [
        "--kind",
        "network",
        "--crop-size",
        "32",
        "--steps",
        "1",
        "--shared-steps",
        "1",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    line = user.fails("train_experts", *inputs, *small, *extra)
    assert re.search(message, line), line


def test_a_full_disk_keeps_the_finished_experts_and_leaves_no_half_one(here: Path, user: User) -> None:
    kept = {path.name: path.read_bytes() for path in (here / "experts").glob("*[d0].safetensors")}
    assert len(kept) == 2
    (here / EXPERT).unlink()
    inputs = ["--index", "index.parquet", "--partition", "partition.parquet", "--output", "experts"]
    settings = {"crop_size": 32, "steps": 2, "shared_steps": 2, "batch_size": 2, "base_lr": 0.02}
    flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]
    with full_disk(1_000_000):
        line = user.fails(
            "train_experts", *inputs, "--kind", "network", *flags, "--precision", "fp32", "--device", "cpu"
        )
    assert line.startswith(f"disk full while writing {EXPERT}: nothing was changed; free some space")
    assert all((here / "experts" / name).read_bytes() == data for name, data in kept.items())
    assert not (here / EXPERT).exists()
    assert not litter(here)


def test_a_full_disk_keeps_the_earlier_selection(here: Path, user: User) -> None:
    before = (here / "selection.parquet").read_bytes()
    inputs = ["--index", "index.parquet", "--partition", "partition.parquet", "--scores", "scores.json"]
    with full_disk(500):
        line = user.fails("draw_subset", *inputs, "--images", "4", "--output", "selection.parquet")
    assert line.startswith("disk full while writing selection.parquet")
    assert (here / "selection.parquet").read_bytes() == before
    assert not litter(here)


@pytest.mark.parametrize(
    ("path", "sampler", "message"),
    [
        (
            "selection.parquet",
            "NDSTrainingSampler",
            "the selection holds 3 images of day, night, of which 3 are of day, night, which DATASETS.TRAIN",
        ),
        ("nowhere.parquet", "NDSTrainingSampler", "selection file not found: nowhere.parquet"),
        ("index.parquet", "NDSTrainingSampler", "expected a file of kind 'selection', got 'index'"),
        ("", "NDSTrainingSampler", "NDSTrainingSampler needs a selection: set NDS.SELECTION"),
        (
            "selection.parquet",
            "NDSTrainingSampeler",
            "unknown DATALOADER.SAMPLER_TRAIN .* Did you mean 'NDSTrain",
        ),
    ],
)
def test_the_loader_refuses_a_selection_or_sampler_that_does_not_fit(
    here: Path, tiny_datasets: Path, path: str, sampler: str, message: str
) -> None:
    assert here.is_dir()
    assert tiny_datasets.is_dir()
    settings = ["NDS.SELECTION", path, "DATALOADER.SAMPLER_TRAIN", sampler, "MODEL.DEVICE", "cpu"]
    cfg = load_config("nds_sample.yaml", [*settings, "DATASETS.TRAIN", "('tiny_city_train',)"])
    with pytest.raises(NDSError, match=message):
        build_nds_train_loader(cfg)
