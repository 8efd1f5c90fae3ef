"""Tables 1, 2 and ssl_mini: rows, plans, tables in the paper's form, and cells by the common runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from generated_pages import generated_part
from imagenet_trees import write_tree

from nds_plugin.experiments.classifier_rows import CPU_SPEED, ClassifierRows, by_target, planned_work
from nds_plugin.experiments.reproduce import Reproduction
from nds_plugin.experiments.results import ResultsFile, fields
from nds_plugin.experiments.row_files import row_yaml
from nds_plugin.experiments.rows import Cell, Grid, cell_overrides
from nds_plugin.experiments.spec import GRIDS, find_row
from nds_plugin.report.table_formats import paper_form, text
from nds_plugin.ssl.config import load_config

ROOT = Path(__file__).resolve().parents[2]
KIND = ClassifierRows()
TABLES = [GRIDS[name] for name in ("1", "2", "ssl_mini")]
tables = pytest.mark.parametrize("grid", TABLES, ids=[grid.name for grid in TABLES])


@tables
def test_a_config_says_what_its_row_says(grid: Grid) -> None:
    iterations = set()
    for row in grid.rows:
        job = KIND.row_config(row)
        assert row.selector == job.nds.SELECTOR
        if row.selector in ("uniform", "nds"):
            assert row.budget == job.nds.BUDGET.SHARE
        if job.pretrains:
            assert row.client.startswith(f"{job.pretrain.method}_")
            iterations.add((job.pretrain.method, job.pretrain.iterations, job.pretrain.batch_size))
        assert job.nds.TARGET.TRAIN[0] != job.nds.TARGET.TEST[0]
        assert f"output/{grid.folder}/{row.name}/seed0" == job.cfg.OUTPUT_DIR
    assert len(iterations) == len(grid.clients)  # equal in all rows of a method


def test_the_file_that_shows_a_row_is_its_config_wherever_it_is_kept(tmp_path: Path) -> None:
    row = find_row("moco_pets_nds_20")
    (tmp_path / "row.yaml").write_text(row_yaml(row))
    assert load_config(str(tmp_path / "row.yaml")).text == KIND.row_config(row).text


def test_what_is_no_part_of_a_row_is_not_in_its_hash(tmp_path: Path) -> None:
    uniform, nds = find_row("moco_pets_uniform_20"), find_row("moco_pets_nds_20")

    def hashed(row, *extra: str) -> str:
        return KIND.config_hash(KIND.row_config(row, extra))

    for row in (uniform, nds):
        moved = cell_overrides(
            Cell(row, 5), tmp_path, ["NUM_WORKERS", "3", "PRETRAIN.CHECKPOINT_PERIOD", "7"]
        )
        assert hashed(row, *moved) == hashed(row)
        for change in (["PRETRAIN.ITERATIONS", "300"], ["FINETUNE.BASE_LR", "0.5"], ["MODEL.WIDTH", "8"]):
            assert hashed(row, *change) != hashed(row)
    assert hashed(uniform, "NDS.PARTITION.NUM_CLUSTERS", "3") == hashed(uniform)
    assert hashed(nds, "NDS.PARTITION.NUM_CLUSTERS", "3") != hashed(nds)
    folders = [f"FOLDERS.{name}.FOLDER" for name in KIND.row_config(nds).cfg.FOLDERS]
    assert len({hashed(nds), *(hashed(nds, folder, "/elsewhere") for folder in folders)}) > 2
    known = folders[0].split(".")[1]
    snds = (
        "NDS.SELECTOR",
        "snds",
        "NDS.SOURCE.DATASETS",
        "()",
        "NDS.SNDS.DATASETS",
        f"('{known}',)",
        folders[0],
    )
    assert hashed(nds, *snds, "/a") != hashed(nds, *snds, "/b")
    random = find_row("pets_none")
    assert hashed(random, "PRETRAIN.ITERATIONS", "300") == hashed(random)


def test_targets_are_columns_and_random_initialisation_is_in_the_table_of_each_method() -> None:
    grid = GRIDS["ssl_mini"]
    entries = [
        {"client": client, "selector": selector, "budget": budget, "seed": 0, "top1": top1}
        for client, selector, budget, top1 in (
            ("pets", "none", 0, 10.0),
            ("moco_pets", "uniform", 0.2, 20.0),
            ("moco_pets", "nds", 0.2, 21.5),
            ("moco_cub", "nds", 0.2, 7.0),
            ("rotnet_pets", "nds", 0.2, 30.0),
        )
    ]
    found = KIND.tables(grid, entries, (0, 1), {})
    rows = {row.selector: row for row in found["moco"].rows}
    assert list(rows) == ["none", "full", "uniform", "nds"]
    assert rows["none"].values["pets"].mean == 10.0
    assert rows["nds"].values["pets"].mean == 21.5
    assert rows["nds"].values["cub"].mean == 7.0
    assert rows["nds"].differences["pets"].mean == 1.5
    assert rows["full"].values["pets"].mean is None
    rotnet = {row.selector: row for row in found["rotnet"].rows}
    assert rotnet["nds"].values["pets"].mean == 30.0
    assert rotnet["none"].values["pets"].mean == 10.0
    assert len(by_target(entries, {"moco_pets": "pets", "moco_cub": "cub"})) == 2


def test_each_target_that_is_not_there_is_a_missing_or_failed_cell() -> None:
    grid = GRIDS["ssl_mini"]
    there = [
        {"client": f"moco_{target}", "selector": "nds", "budget": 0.2, "seed": 0, "top1": 1.0}
        for target in ("dogs", "cars", "pets")
    ]
    broken = Cell(find_row("moco_cub_nds_20"), 0)
    table = KIND.tables(grid, there, (0,), {broken: "out of memory"})["moco"]
    assert (table.cells, table.missing) == (20, 17)
    assert table.rows[3].status == {"0/flowers": "missing", "0/cub": "failed"}
    shown = text(table)
    assert "17 of 20 cells are missing: NDS 20 % seeds 0/flowers, 0/cub (failed); all of" in shown
    assert " 1/1 " in next(line for line in shown.splitlines() if " NDS " in line)


def test_a_target_whose_name_ends_like_anothers_is_taken_for_itself() -> None:
    grid = GRIDS["1"]
    (method,) = grid.clients
    tested = {"stanford_dogs": 8_580, "dogs": 3}
    grid = replace(
        grid, categories={method: tuple(reversed(tested))}, test_images=dict(reversed(tested.items()))
    )
    rows = [row for row in grid.rows if row.client in ("stanford_dogs", f"{method}_stanford_dogs")]
    planned = KIND.planned(
        grid, {row: KIND.row_config(row) for row in rows}, [Cell(row, 0) for row in rows], rows
    )
    assert [row.work.test_images for row in planned] == [8_580] * 4


def test_a_plan_counts_the_scoring_of_all_images_of_the_target() -> None:
    row = find_row("moco_flowers_102_nds_20", "1")
    (planned,) = KIND.planned(GRIDS["1"], {row: KIND.row_config(row)}, [Cell(row, 0)], [row])
    nds = KIND.row_config(row).nds
    assert nds.SCORING.MAX_IMAGES == 0
    assert planned.work.scored == 2_040 * 4 * (nds.PARTITION.NUM_CLUSTERS + 1)  # and the shared network


def test_a_plan_counts_two_checkpoints_while_a_cell_runs_and_weights_alone_after_it() -> None:
    for name, trains, files in (
        ("moco_pets_nds_20", True, 3),
        ("moco_pets_nds_20", False, 2),
        ("pets_none", False, 1),
    ):
        work = planned_work(KIND.row_config(find_row(name)), 1, 1, trains)
        assert work.running_bytes == 2 * work.checkpoint_bytes
        assert work.kept_bytes == files * 4 * work.parameters


# Neural Data Server, supplementary material (CVPR 2020), Tables 1 and 2 as they are printed there.
PRINTED = {
    "1": """\
0% Random Init.	23.66	18.60	32.35	48.02	25.06
100% Entire Dataset	41.64	46.83	56.34	67.17	35.28
20% Uniform Sample	41.01	44.16	56.01	64.42	34.41
NDS	39.72	43.56	54.62	65.90	34.57
""",
    "2": """\
0% Random Init.	23.66	18.60	32.35	48.02	25.06
100% Entire Dataset	47.83	55.87	67.54	78.99	44.25
20% Uniform Sample	42.74	42.82	60.25	72.59	39.30
NDS	43.33	43.34	61.49	72.85	40.47
""",
}


@pytest.mark.parametrize("name", ["1", "2"])
def test_the_papers_numbers_stand_beside_ours(name: str) -> None:
    """And cells that score what the paper's scored are printed as it prints them."""
    grid = GRIDS[name]
    (method,) = grid.clients
    printed = [line.split("\t")[1:] for line in PRINTED[name].splitlines()]
    rows = [("none", 0), ("full", 1.0), ("uniform", 0.2), ("nds", 0.2)]
    client = {target: f"{method}_{target}" for target in grid.categories[method]}
    cells = [
        {"client": target if selector == "none" else client[target], "selector": selector, "budget": budget,
         "seed": 0, "top1": float(top1)}
        for (selector, budget), values in zip(rows, printed)
        for target, top1 in zip(client, values)
    ]  # fmt: skip
    table = KIND.tables(grid, cells, (0,), {})[method]
    assert [line.split("\t")[2:] for line in paper_form(table).splitlines()[1:]] == printed
    assert [[f"{value:.2f}" for value in row.paper.values()] for row in table.rows] == printed
    assert list(table.rows[0].paper) == list(table.columns)


def test_a_plan_counts_a_shared_pretraining_once(tmp_path: Path) -> None:
    plan = Reproduction(GRIDS["1"], tmp_path, tmp_path / "cells.json").plan()
    lines = [line for line in plan.splitlines() if "200,000 x 256" in line]
    assert len(lines) == 7  # uniform and the whole once, NDS for each of five targets
    assert "60 cells to run" in plan
    assert "GPU h of experts" in plan
    assert "assumed" in plan


def test_a_plan_counts_what_the_network_computes() -> None:
    """Table 1 pretrains at 64 pixels, where the speed is of, and fine-tunes at 128: four times the work."""
    row = next(row for row in GRIDS["1"].rows if row.selector == "nds")
    work = replace(planned_work(KIND.row_config(row), 3000, 0, True), on_gpu=True)
    assert work.pretrain_hours == pytest.approx(200_000 * 256 / 2500 / 3600)
    assert work.finetune_hours == pytest.approx((10_000 * 128 + 1000) / (2500 / 4) / 3600)
    mini = planned_work(KIND.row_config(find_row("moco_pets_nds_20")), 0, 0, True)
    assert not mini.on_gpu
    assert mini.pretrain_hours == pytest.approx(3000 * 128 / CPU_SPEED["moco"].images / 3600)
    assert mini.finetune_hours == pytest.approx(300 * 32 / CPU_SPEED[""].images / 3600)
    wide, deep = (planned_work(KIND.row_config(row, words), 0, 0, True) for words in (
        ["MODEL.WIDTH", "128"], ["MODEL.DEPTH", "50"],
    ))  # fmt: skip
    assert (
        3.9 < wide.pretrain_adds / work.pretrain_adds < 4.0
    )  # all convolutions but the stem are wider on both sides
    assert 2.0 < deep.pretrain_adds / work.pretrain_adds < 2.5


def test_the_page_is_made_from_the_kept_cells(tmp_path: Path) -> None:
    kept = ROOT / "docs/ssl_mini.json"
    for entry in ResultsFile(kept, KIND.means).read()["cells"]:
        assert tuple(entry) == fields(KIND.means)
    table = Reproduction(GRIDS["ssl_mini"], tmp_path, kept)
    assert generated_part(ROOT / "docs/ssl.md") == table.page(table.tables(), "ssl")


@pytest.mark.slow
def test_cells_run_and_share_their_pretraining(
    nds_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "datasets", 32, "npz")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    small = [
        "PRETRAIN.ITERATIONS",
        "2",
        "PRETRAIN.WARMUP",
        "0",
        "PRETRAIN.BATCH_SIZE",
        "8",
        "PRETRAIN.QUEUE",
        "16",
        "MODEL.WIDTH",
        "4",
    ]
    small += ["PRETRAIN.BN_GROUPS", "2", "FINETUNE.ITERATIONS", "2"]
    table = Reproduction(
        GRIDS["ssl_mini"], tmp_path / "out", tmp_path / "cells.json", seeds=[0],
        only=["moco_dogs_full", "moco_flowers_full"], overrides=small,
    )  # fmt: skip
    table.check()
    outcome = table.run(1)
    assert not outcome.failed
    entries = table.results.read()["cells"]
    assert [entry["client"] for entry in entries] == ["moco_dogs", "moco_flowers"]
    assert all(0 <= entry["top1"] <= 100 for entry in entries)
    dogs, flowers = (
        tmp_path / f"out/moco_{t}_full/seed0/pretrain/model_final.pth" for t in ("dogs", "flowers")
    )
    assert dogs.samefile(flowers)
    assert not table.jobs()
