"""The selectors by hand: a gate made, scored and drawn by; images weighed and drawn by; what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest
from as_user import ROOT, User, tool
from tiny_experts import two_domains, write_domain

from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experts.expert_set import write_network
from nds_plugin.experts.scores import Scores
from nds_plugin.images.networks import build_network
from nds_plugin.pipeline.scores_text import scores_text
from nds_plugin.selection.selection import Selection


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index, its partition, a network and a client's pictures, which are like the second domain."""
    folder = tmp_path_factory.mktemp("files")
    index, partition = two_domains(folder, 20)
    index.save(folder / "index.parquet", "k")
    partition.save(folder / "partition.parquet", "k")
    write_network(folder / "shared.safetensors", build_network(4).state_dict(), {"key": "k", "outputs": 4})
    write_domain(folder / "photos", 12, bright_top=False, seed=5)
    return folder


def start(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    tool(name).main()


@pytest.mark.parametrize("selector", ["gate", "histogram"])
def test_a_gate_goes_from_the_source_to_the_client_and_back_to_a_draw(
    selector: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = ["--index", files / "index.parquet", "--partition", files / "partition.parquet"]
    network = ["--network", files / "shared.safetensors", "--crop-size", "32", "--num-workers", "0"]
    named = ["--selector", selector]
    start(monkeypatch, "train_gate", *source, *network, *named, "--output", tmp_path / "gate")
    client = ["--images", files / "photos", "--output", tmp_path / "scores.json", "--num-workers", "0"]
    start(monkeypatch, "score_gate", "--gate", tmp_path / "gate", *client)
    assert "12 images scored, 0 unreadable; 12 forward passes over 12 images" in capsys.readouterr().out
    drawn = ["--scores", tmp_path / "scores.json", "--images", "10"]
    start(monkeypatch, "draw_subset", *source, *named, *drawn, "--output", tmp_path / "drawn.parquet")
    sources = Selection.load(tmp_path / "drawn.parquet").column("source").to_pylist()
    assert sources.count("night") >= 7
    assert "the client's cost: 12 forward passes" in capsys.readouterr().out


@pytest.mark.parametrize("selector", ["knn", "domain_classifier"])
def test_weighed_images_are_drawn_without_a_partition_and_the_look_is_told(
    selector: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = ["--index", files / "index.parquet", "--selector", selector]
    network = ["--network", files / "shared.safetensors", "--crop-size", "32", "--num-workers", "0"]
    weights = tmp_path / "weights.parquet"
    start(monkeypatch, "weigh_images", *named, *network, "--images", files / "photos", "--output", weights)
    drawn = ["--image-weights", weights, "--images", "10", "--output", tmp_path / "drawn.parquet"]
    start(monkeypatch, "draw_subset", *named, *drawn)
    sources = Selection.load(tmp_path / "drawn.parquet").column("source").to_pylist()
    assert sources.count("night") >= 7
    assert "The selector looks at the client's images." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "step", "options", "kept"),
    [
        ("weigh_images", "nds_plugin.commands.weigh.weigh_images", ("--selector", "knn"), "made.features"),
        (
            "train_gate",
            "nds_plugin.selection.selectors.gate_network.train_gate",
            (),
            "made.parquet/features-of-gate",
        ),
    ],
)
def test_a_stopped_run_goes_on_from_its_features(
    name: str,
    step: str,
    options: tuple[str, ...],
    kept: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_clusters = ("--images", "photos") if options else ("--partition", "partition.parquet")
    monkeypatch.chdir(files)
    arguments = ("--index", "index.parquet", *options, *of_clusters, "--network", "shared.safetensors")
    small = ("--crop-size", "32", "--num-workers", "0", "--output", tmp_path / "made.parquet")
    with monkeypatch.context() as stopped:
        stopped.setattr(step, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start(stopped, name, *arguments, *small)
    assert list((tmp_path / kept).glob("*.npy"))
    (tmp_path / kept / "mine.npy").touch()
    with monkeypatch.context() as again:
        again.setattr("nds_plugin.source.feature_shards._extract", Mock(side_effect=AssertionError))
        start(again, name, *arguments, *small)
    assert (tmp_path / "made.parquet").exists()
    assert [path.name for path in (tmp_path / kept).iterdir()] == ["mine.npy"]


def test_an_oracle_needs_no_network(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = ["--index", files / "index.parquet", "--selector", "oracle"]
    weights = tmp_path / "weights.parquet"
    start(monkeypatch, "weigh_images", *named, "--sources", "day", "--output", weights)
    start(
        monkeypatch, "draw_subset", *named, "--image-weights", weights, "--share", "0.25",
        "--output", tmp_path / "drawn.parquet",
    )  # fmt: skip
    assert Selection.load(tmp_path / "drawn.parquet").column("source").to_pylist() == ["day"] * 10


def test_mistakes_are_one_line(files: Path, tmp_path: Path, user: User) -> None:
    index, out = ["--index", files / "index.parquet"], ["--output", tmp_path / "x.parquet"]
    line = user.fails("weigh_images", *index, "--selector", "knn", *out)
    assert "--selector knn needs the target's --images, --coco or --dataset" in line
    line = user.fails("draw_subset", *index, "--selector", "knn", "--images", "3", *out)
    assert "the knn selector needs weights of the source's images" in line
    line = user.fails("draw_subset", *index, "--selector", "gate", "--images", "3", *out)
    assert "--selector gate draws by clusters: give the source's --partition" in line
    source = [*index, "--partition", files / "partition.parquet"]
    line = user.fails("train_gate", *source, "--l2", "1.0", "--selector", "histogram", *out, "--network", "x")
    assert "--l2 does nothing for the selector histogram" in line
    line = user.fails("score_gate", "--gate", tmp_path, "--images", files / "photos", "--output", "x.json")
    assert "gate file not found" in line
    line = user.fails(
        "draw_subset", *index, "--image-weights", files / "partition.parquet", *out, "--share", "0.5"
    )
    assert "expected a file of kind 'image_weights', got 'partition'" in line


@pytest.mark.parametrize("experts", [8, 16, 50])
def test_scores_of_pure_noise_are_remarked_on_however_many_experts_there_are(experts: int) -> None:
    generator, error = np.random.Generator(np.random.PCG64(0)), 0.02

    def told(z: npt.NDArray[np.float64]) -> str:
        scores = Scores(
            [*range(experts)], z.tolist(), [error] * experts, "accuracy", 10, "e" * 64, "rotation"
        )
        return scores_text(scores, "scores.json")

    noise = generator.normal(0.5, error, experts)
    assert "wrote scores.json" in told(noise)
    assert "a draw by them follows chance" in told(noise)
    assert "a draw by them follows chance" not in told(noise + np.linspace(0, 10 * error, experts))


def _study() -> object:
    spec = importlib.util.spec_from_file_location("selection_study", ROOT / "benchmarks/selection_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["selection_study"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_study_keeps_scores_for_all_settings_of_a_draw_and_for_no_others() -> None:
    study = _study()
    parse = study.Setting.parse  # type: ignore[attr-defined]
    same = [
        parse(f"selector=nds K=8 z={z} T={t}".split())
        for z in ("accuracy", "log_likelihood")
        for t in (0.1, 1)
    ]
    assert len({setting.evidence for setting in same}) == 1
    assert parse(["selector=nds", "K=4"]).evidence != same[0].evidence
    assert parse(["selector=gate", "K=8"]).evidence != same[0].evidence
    assert parse(["selector=knn", "T=1"]).evidence == parse(["selector=domain_classifier", "l2=1"]).evidence
    by_objects = [parse(f"selector=gate unit=object draw={draw}".split()) for draw in ("plain", "softmax")]
    assert by_objects[0].evidence != by_objects[1].evidence
    with pytest.raises(UnknownNameError, match=r"unknown name in --setting 'k'. Did you mean 'K'"):
        parse(["k=8"])
    with pytest.raises(NDSError, match="expected NAME=VALUE, got 'gate'"):
        parse(["gate"])


def test_the_study_names_a_selector_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["selection_study.py", "--only", "gatee", "--work", str(tmp_path)])
    with pytest.raises(UnknownNameError, match=r"unknown selector in --only 'gatee'.*gate"):
        _study().main()  # type: ignore[attr-defined]


def test_the_study_tells_what_is_drawn_and_what_it_cost(
    nds_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--client",
        "cityscapes",
        "--seeds",
        "2",
        "--setting",
        "selector=uniform",
        "--setting",
        "selector=oracle",
    ]
    monkeypatch.setattr(sys, "argv", ["selection_study.py", *arguments, "--work", str(tmp_path)])
    _study().main()  # type: ignore[attr-defined]
    rows = json.loads((tmp_path / "study.json").read_text())
    assert [(row["setting"], row["seed"]) for row in rows] == [
        ("selector=uniform", 0), ("selector=uniform", 1), ("selector=oracle", 0), ("selector=oracle", 1),
    ]  # fmt: skip
    assert [row["own_domain"] == pytest.approx(1.0) for row in rows] == [False, False, True, True]
    assert "selector=oracle" in capsys.readouterr().out
