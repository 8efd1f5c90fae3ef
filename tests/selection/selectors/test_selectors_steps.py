"""Every selector through the configs: artefacts that are kept, draws that train, settings that are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.data.drawn_dataset import register_selection
from nds_plugin.d2.data.loader import build_nds_train_loader
from nds_plugin.d2.job.checks import check_target
from nds_plugin.d2.job.main_job import check_job, selection_steps
from nds_plugin.d2.train.stages import training_key
from nds_plugin.errors import NDSError
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.presets import PRESETS
from nds_plugin.pipeline.selection_steps import Selected
from nds_plugin.selection.image_weights import ImageWeights

pytestmark = pytest.mark.slow

TINY = [
    *("DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"),
    *("NDS.SOURCE.DATASETS", "('tiny_street_train', 'tiny_room_train')", "NDS.TARGET.NUM_IMAGES", "8"),
    *("NDS.PARTITION.NUM_CLUSTERS", "3", "NDS.PARTITION.METHOD", "kmeans", "NDS.EXPERTS.STEPS", "1"),
    *("NDS.EXPERTS.SHARED_STEPS", "1", "NDS.EXPERTS.BATCH_SIZE", "2", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.EXPERTS.KIND", "network"),
    *(
        "NDS.BUDGET.SHARE",
        "0.5",
        "DATALOADER.NUM_WORKERS",
        "0",
        "NDS.ORACLE.SOURCES",
        "('tiny_street_train',)",
    ),
]
SELECTORS = ("nds", "gate", "histogram", "knn", "domain_classifier", "oracle", "uniform")


@pytest.fixture(scope="module")
def work(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder that all runs share."""
    return tmp_path_factory.mktemp("work")


def config(work: Path, *extra: str) -> object:
    return load_config("nds_sample.yaml", [*TINY, "OUTPUT_DIR", str(work), "NDS.WORK_DIR", str(work), *extra])


def selected(work: Path, *extra: str) -> Selected:
    cfg = config(work, *extra)
    check_job(cfg)  # type: ignore[arg-type]
    return selection_steps(cfg, Timings()).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["image", "object"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_by_its_name_makes_an_exact_draw_and_keeps_it(
    selector: str, unit: str, work: Path
) -> None:
    first = selected(work, "NDS.SELECTOR", selector, "NDS.UNIT", unit)
    assert len(first.selection) == len(first.index) // 2
    assert first.selection.info["selector"] == selector
    assert first.selection.info["sees_target"] is (selector in ("knn", "domain_classifier"))
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    again = selected(work, "NDS.SELECTOR", selector, "NDS.UNIT", unit)
    assert before == {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert again.selection.table.equals(first.selection.table)


def test_costs_count_every_pass_of_every_network(work: Path) -> None:
    passes = {
        name: selected(work, "NDS.SELECTOR", name).selection.info["cost"]["forward_passes"]
        for name in SELECTORS
    }
    # 8 images; four rotations each, three experts and the shared network.
    assert passes == {
        "nds": 8 * 4 * 4, "gate": 8, "histogram": 8, "knn": 8, "domain_classifier": 8, "oracle": 0, "uniform": 0,
    }  # fmt: skip


def test_an_image_s_weight_by_objects_is_that_of_its_objects(work: Path) -> None:
    found = selected(work, "NDS.SELECTOR", "knn", "NDS.UNIT", "object", "NDS.OBJECTS.PER_IMAGE", "2")
    details = found.selection.info["details"]
    assert details["unit"] == "object"
    assert len(found.index) < details["objects"] <= 2 * len(found.index)
    by_image = selected(work, "NDS.SELECTOR", "knn")
    assert not by_image.selection.table.equals(found.selection.table)


def test_another_metric_needs_no_new_scoring(work: Path) -> None:
    first = selected(work, "NDS.SCORING.METRIC", "accuracy")
    second = selected(work, "NDS.SCORING.METRIC", "log_likelihood")
    assert first.paths["scores"] == second.paths["scores"]
    assert second.selection.info["metric"] == "log_likelihood"
    assert second.selection.info["z"] != first.selection.info["z"]


@pytest.mark.parametrize("selector", ["knn", "oracle", "gate"])
def test_a_stream_trains_on_the_images_by_their_p(selector: str, work: Path) -> None:
    found = selected(work, "NDS.SELECTOR", selector, "NDS.MODE", "stream", "NDS.BUDGET.SHARE", "0.0")
    register_selection(found.path, f"nds_stream_{selector}")
    loader = build_nds_train_loader(
        dataset=f"nds_stream_{selector}",
        mapper=lambda record: {key: record[key] for key in ("nds_source", "image_id")},
        total_batch_size=8,
        selection=found.selection,
        seed=0,
    )
    drawn = Counter(
        (record["nds_source"], str(record["image_id"]))
        for _, batch in zip(range(400), loader)
        for record in batch
    )
    table = found.selection.table.to_pydict()
    for source, image_id, p in zip(table["source"], table["image_id"], table["p"]):
        assert drawn[source, image_id] / 3200 == pytest.approx(p, abs=6 * np.sqrt(p / 3200) + 1e-3)


def test_what_selects_is_no_part_of_the_key_of_training(work: Path) -> None:
    keys = {
        training_key(config(work, *extra), ["the selection"])  # type: ignore[arg-type]
        for extra in ((), ("NDS.UNIT", "object"), ("NDS.KNN.NEIGHBOURS", "5"), ("NDS.GATE.DRAW", "softmax"))
    }
    assert len(keys) == 1


def test_a_preset_lies_under_what_stands_beside_its_name(tmp_path: Path) -> None:
    base = load_config("nds_mini.yaml")
    assert base.NDS.PARTITION.NUM_CLUSTERS == 8
    on_the_command_line = load_config("nds_mini.yaml", ["NDS.TEMPERATURE", "0.5", "NDS.PRESET", "paper"])
    assert on_the_command_line.NDS.PARTITION.NUM_CLUSTERS == 50  # over the file's
    assert on_the_command_line.NDS.TEMPERATURE == 0.5  # under the command line's
    file = tmp_path / "own.yaml"
    file.write_text("NDS:\n  PRESET: paper\n  PARTITION:\n    NUM_CLUSTERS: 6\n")
    in_the_file = load_config(str(file))
    assert in_the_file.NDS.PARTITION.NUM_CLUSTERS == 6
    assert in_the_file.NDS.UNIT == "image"
    assert (base.NDS.EXPERTS.KIND, in_the_file.NDS.EXPERTS.KIND) == ("head", "network")
    assert set(PRESETS["paper"]) >= {"NDS.SCORING.METRIC", "NDS.NORMALISATION", "NDS.EXPERTS.TASK"}


def test_a_source_is_drawn_from_by_experts_of_another(work: Path) -> None:
    """Nothing is trained for it, and the client sends what it would send for the others."""
    named = ("NDS.SOURCE.DATASETS", "('tiny_street_train',)")
    known = selected(work, *named)
    before = {path for path in work.iterdir() if path.name.startswith("experts-")}
    by = ("NDS.SELECTOR", "snds", "NDS.SNDS.EXPERTS", known.paths["experts"])
    first = selected(work, *by)
    assert len(first.selection) == len(first.index) // 2
    assert first.selection.info["metric"] == "similarity"
    assert len(first.selection.info["z"]) == first.partition.num_clusters
    assert {path for path in work.iterdir() if path.name.startswith("experts-")} == before
    assert first.paths["scores"] == known.paths["scores"]
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert selected(work, *by).path == first.path
    assert kept == {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert selected(work, *by, "NDS.SNDS.SIMILARITY", "distance").path != first.path
    by_objects = selected(work, *by, "NDS.UNIT", "object")
    assert len(by_objects.selection) == len(first.selection)


@pytest.mark.parametrize("unit", ["image", "object"])
def test_the_job_trains_the_experts_that_describe_its_source(unit: str, work: Path, tmp_path: Path) -> None:
    """As if they had been trained by a job on those datasets, and named by their folder."""
    known = ("NDS.SOURCE.DATASETS", "('tiny_street_train',)", "NDS.UNIT", unit)
    folder = selected(work, *known).paths["experts"]
    snds = ("NDS.SELECTOR", "snds", "NDS.UNIT", unit)
    by_folder = selected(work, *snds, "NDS.SNDS.EXPERTS", folder)
    by_datasets = (*snds, "NDS.SNDS.DATASETS", "('tiny_street_train',)")
    found = selected(tmp_path, *by_datasets)
    assert [path.name for path in tmp_path.glob("experts-*")] == [Path(folder).name]
    assert found.selection.table.equals(by_folder.selection.table)
    assert found.partition.hash == by_folder.partition.hash
    own = {name: Path(found.paths[name]).name for name in ("index", "partition", "description")}
    assert own == {name: Path(by_folder.paths[name]).name for name in own}
    assert Path(found.paths["describing_experts"]).name == Path(folder).name
    assert found.paths["describing_index"] != found.paths["index"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert selected(tmp_path, *by_datasets).path == found.path
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_experts_that_cannot_be_had_are_told_before_anything_is_trained(work: Path, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="NDS.SNDS.EXPERTS: experts file not found: nowhere/manifest.json"):
        selected(tmp_path, "NDS.SELECTOR", "snds", "NDS.SNDS.EXPERTS", "nowhere")
    assert not list(tmp_path.glob("*-*"))
    by = ("NDS.SELECTOR", "snds", "NDS.SNDS.DATASETS", "('tiny_street_train',)")
    with pytest.raises(
        NDSError, match=r"NDS.SNDS.DATASETS: cannot cut the \d classes of tiny_street_train into 5"
    ):
        selected(tmp_path, *by, "NDS.PARTITION.METHOD", "superclass", "NDS.PARTITION.NUM_CLUSTERS", "5")
    both = str(len(selected(work, "NDS.SELECTOR", "uniform").index))
    with pytest.raises(
        NDSError, match=rf"NDS.SNDS.DATASETS: cannot cut the \d+ images of .* into {both} clusters"
    ):
        selected(tmp_path, *by, "NDS.PARTITION.NUM_CLUSTERS", both)
    assert {path.name.split("-")[0] for path in tmp_path.glob("*-*")} == {"index"}


def test_clusters_of_one_class_are_not_described_by_supervised_experts(work: Path) -> None:
    before = {path.name for path in work.glob("experts-*")}
    by = ("NDS.SELECTOR", "snds", "NDS.SNDS.DATASETS", "('tiny_street_train',)")
    cut = ("NDS.PARTITION.METHOD", "superclass", "NDS.EXPERTS.TASK", "supervised")
    with pytest.raises(NDSError, match=r"cluster \d of the source has images of fewer than two classes"):
        selected(work, *by, *cut)
    assert {path.name for path in work.glob("experts-*")} == before


def test_a_source_that_is_tested_on_is_told(
    tiny_datasets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_target(config(tmp_path))  # type: ignore[arg-type]
    assert "selected from, too" not in caplog.text
    check_target(config(tmp_path, "NDS.SOURCE.DATASETS", "('tiny_room_train', 'tiny_city_val')"))  # type: ignore[arg-type]
    assert "DATASETS.TEST names tiny_city_val, which is selected from, too" in caplog.text


BAD = {
    "snds without experts": (["NDS.SELECTOR", "snds"], "NDS.SNDS.EXPERTS and NDS.SNDS.DATASETS are both empty"),
    "no name": (["NDS.SOURCE.DATASETS", "(1,)"], "NDS.SOURCE.DATASETS must be a list of names of datasets, got 1 in it"),
    "no name of the oracle": (
        ["NDS.SELECTOR", "oracle", "NDS.ORACLE.CLASSES", "(1,)"], r"NDS.ORACLE.CLASSES must be a list of names, got \(1,\)",
    ),
    "a source twice": (
        ["NDS.SOURCE.DATASETS", "('tiny_street_train', 'tiny_street_train')"],
        "NDS.SOURCE.DATASETS names tiny_street_train more than once",
    ),
    "a dataset of experts twice": (
        ["NDS.SELECTOR", "snds", "NDS.SNDS.DATASETS", "('tiny_street_train', 'tiny_street_train')"],
        "NDS.SNDS.DATASETS names tiny_street_train more than once",
    ),
    "snds by both": (
        ["NDS.SELECTOR", "snds", "NDS.SNDS.EXPERTS", "x", "NDS.SNDS.DATASETS", "('tiny_street_train',)"],
        "are both set: keep one",
    ),
    "experts of no dataset": (
        ["NDS.SELECTOR", "snds", "NDS.SNDS.DATASETS", "('tiny_strett_train',)"],
        "tiny_strett_train",
    ),
    "similarity": (["NDS.SELECTOR", "snds", "NDS.SNDS.SIMILARITY", "x"], "unknown NDS.SNDS.SIMILARITY 'x'"),
    "selector": (["NDS.SELECTOR", "kn"], r"unknown NDS.SELECTOR 'kn'.*'knn'.*Known: .*gate.*none"),
    "unit": (["NDS.UNIT", "box"], "unknown NDS.UNIT 'box'.*Known: image, object"),
    "draw of the gate": (["NDS.SELECTOR", "gate", "NDS.GATE.DRAW", "x"], "unknown NDS.GATE.DRAW 'x'"),
    "l2 of the gate": (["NDS.SELECTOR", "gate", "NDS.GATE.L2", "0.0"], "NDS.GATE.L2 must be above 0"),
    "neighbours": (["NDS.SELECTOR", "knn", "NDS.KNN.NEIGHBOURS", "-1"], "NDS.KNN.NEIGHBOURS must be"),
    "objects": (["NDS.UNIT", "object", "NDS.OBJECTS.PER_IMAGE", "0"], "NDS.OBJECTS.PER_IMAGE must be"),
    "oracle of nothing": (["NDS.SELECTOR", "oracle", "NDS.ORACLE.SOURCES", "()"], "the oracle needs the source datasets or main classes"),
    "oracle of another source": (
        ["NDS.SELECTOR", "oracle", "NDS.ORACLE.SOURCES", "('tiny_strett_train',)"],
        r"unknown source of the oracle 'tiny_strett_train'.*'tiny_street_train'",
    ),
    "no network": (
        ["NDS.SELECTOR", "knn", "NDS.EXPERTS.SHARED_STEPS", "0", "NDS.EXPERTS.INIT", "scratch"],
        "no network for the features",
    ),
    "rescoring a gate": (["NDS.SELECTOR", "gate", "NDS.RESCORE.ITERS", "(5,)"], "RESCORE.ITERS needs NDS.SEL"),
    "rescoring objects": (
        ["NDS.UNIT", "object", "NDS.MODE", "stream", "NDS.RESCORE.ITERS", "(5,)"],
        "RESCORE.ITERS needs .*NDS.UNIT image",
    ),
    "preset": (["NDS.PRESET", "papr"], r"unknown NDS.PRESET 'papr'\. Did you mean 'paper'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_before_anything_runs(
    case: str, tmp_path: Path, tiny_datasets: Path
) -> None:
    extra, message = BAD[case]
    with pytest.raises(NDSError, match=message) as raised:
        check_job(config(tmp_path, *extra))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_the_weights_are_an_artefact_of_their_own(work: Path) -> None:
    found = selected(work, "NDS.SELECTOR", "domain_classifier")
    weights = ImageWeights.load(found.paths["image_weights"])
    weights.check_matches(found.index)
    assert (weights.selector, weights.cost.images) == ("domain_classifier", 8)
