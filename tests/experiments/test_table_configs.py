"""Every config of the tables is that of its row, and trains on datasets laid out as their providers do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from provider_files import write_cityscapes, write_coco_2017, write_openimages, write_photographs

from nds_plugin.d2.config.deciding import config_hash, deciding_settings
from nds_plugin.d2.config.nodes import load_config
from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experiments.detector_rows import DetectorRows
from nds_plugin.experiments.row_files import row_yaml
from nds_plugin.experiments.rows import Cell, Grid, Row, cell_overrides
from nds_plugin.experiments.spec import GRIDS, find_row

DETECTORS = [grid for grid in GRIDS.values() if grid.kind == "detector"]
row_config = DetectorRows().row_config
ROWS = [(grid, row) for grid in DETECTORS for row in grid.rows]


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "row"), ROWS, ids=[f"{grid.name}-{row.name}" for grid, row in ROWS])
def test_a_config_says_what_its_row_says(grid: Grid, row: Row) -> None:
    nds = row_config(row).NDS
    assert row.selector == nds.SELECTOR
    if row.selector not in ("none", "full"):
        assert row.budget in (nds.BUDGET.IMAGES, nds.BUDGET.SHARE)
        assert 0 in (nds.BUDGET.IMAGES, nds.BUDGET.SHARE)
    assert nds.EVALUATE_PRETRAINED
    assert f"output/{grid.folder}/{row.name}/seed0" == row_config(row).OUTPUT_DIR


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "row"), ROWS, ids=[f"{grid.name}-{row.name}" for grid, row in ROWS])
def test_the_file_that_shows_a_row_is_its_config_wherever_it_is_kept(
    grid: Grid, row: Row, tmp_path: Path
) -> None:
    assert find_row(row.name, grid.name) == row
    (tmp_path / "row.yaml").write_text(row_yaml(row))
    assert load_config(str(tmp_path / "row.yaml")).dump() == row_config(row).dump()


@pytest.mark.slow
def test_the_hashes_of_the_rows_are_those_of_the_cells_that_are_kept() -> None:
    """Or finished cells would be run again: hashes of the time when each row was a file of its own."""
    found = {grid.name: {row.name: config_hash(row_config(row)) for row in grid.rows} for grid in DETECTORS}
    assert found == json.loads((Path(__file__).parent / "row_hashes.json").read_text())


def test_scalable_nds_knows_three_of_four_sources() -> None:
    nds = row_config(find_row("cityscapes_snds_20", "mini_imagenet")).NDS
    hidden = {f"nds_data_{name}_train" for name in ("camvid", "carla", "uwear", "food", "doors")}
    assert {*nds.SOURCE.DATASETS} - {*nds.SNDS.DATASETS} == hidden
    assert {*nds.SNDS.DATASETS} < {*nds.SOURCE.DATASETS}


def test_a_row_of_several_tables_is_shown_of_the_one_that_is_named() -> None:
    assert find_row("full", "4") != find_row("full", "5")
    with pytest.raises(NDSError, match="tables 4 and 5 have such a row: say which by --table"):
        find_row("full")
    with pytest.raises(UnknownNameError, match="unknown row of a table 'nds_24k'. Did you mean 'nds_"):
        find_row("nds_24k")


@pytest.mark.parametrize("name", ["4", "5"])
def test_pretraining_passes_as_often_over_every_budget_as_the_1x_schedule_over_coco(name: str) -> None:
    for row in GRIDS[name].rows:
        solver = row_config(row).NDS.PRETRAIN.SOLVER
        if row.selector in ("uniform", "nds"):
            epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / row.budget
            assert epochs == pytest.approx(90_000 * 16 / 118_287, rel=0.01)
            assert pytest.approx((solver.MAX_ITER * 2 / 3, solver.MAX_ITER * 8 / 9), rel=0.01) == solver.STEPS


def test_all_mini_rows_train_alike() -> None:
    configs = [row_config(row) for row in GRIDS["mini"].rows]
    first = configs[0]
    for cfg in configs:
        assert cfg.SOLVER == first.SOLVER
        assert cfg.NDS.PRETRAIN == first.NDS.PRETRAIN
        assert cfg.NDS.TARGET.NUM_IMAGES == 100
        assert cfg.NDS.SOURCE == first.NDS.SOURCE


def test_the_hash_of_a_row_knows_neither_seed_nor_folder_nor_machine(tmp_path: Path) -> None:
    row = GRIDS["mini"].rows[2]
    plain = config_hash(row_config(row))
    moved = ["MODEL.DEVICE", "cuda", "DATALOADER.NUM_WORKERS", "7", "SOLVER.CHECKPOINT_PERIOD", "3"]
    assert config_hash(row_config(row, cell_overrides(Cell(row, 5), tmp_path, moved))) == plain
    for change in (
        ["SOLVER.MAX_ITER", "201"],
        ["NDS.PRETRAIN.SOLVER.MAX_ITER", "601"],
        ["NDS.TEMPERATURE", "0.3"],
    ):
        assert config_hash(row_config(row, change)) != plain


def test_cells_have_experts_of_their_own_where_the_table_says_so(tmp_path: Path) -> None:
    row = find_row("cityscapes_nds_20", "mini_imagenet")

    def seeds(own: bool) -> tuple[int, int, int]:
        nds = row_config(row, cell_overrides(Cell(row, 5), tmp_path, own_experts=own)).NDS
        return (nds.SEED, nds.PARTITION.SEED, nds.EXPERTS.SEED)

    assert seeds(own=True) == (5, 5, 5)
    assert seeds(own=False) == (5, 0, 0)


def test_a_setting_decides_also_where_it_is_the_default() -> None:
    """Or a new default would pass for the old one."""
    rows = {row.selector: deciding_settings(row_config(row)) for row in GRIDS["mini"].rows[:12]}
    assert rows["nds"]["NDS.TEMPERATURE"] == row_config(GRIDS["mini"].rows[2]).NDS.TEMPERATURE
    assert "NDS.TEMPERATURE" not in rows["uniform"]
    assert "NDS.GATE.DRAW" in rows["gate"]
    assert "NDS.GATE.DRAW" not in rows["nds"]
    assert "NDS.ORACLE.SOURCES" in rows["oracle"]


def test_settings_of_experts_leave_the_rows_that_have_none() -> None:
    change = ["NDS.EXPERTS.STEPS", "81", "NDS.PARTITION.NUM_CLUSTERS", "4", "NDS.TEMPERATURE", "0.3"]
    for row in GRIDS["mini"].rows:
        same = config_hash(row_config(row)) == config_hash(row_config(row, change))
        assert same == (row.selector in ("none", "uniform", "full", "oracle"))


def _one_of_each_selector(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ by their budget alone train alike."""
    return list({row.selector: row for row in reversed(rows)}.values())[::-1]


def _two_iterations(root: Path, output: Path, rows: list[Row]) -> list[dict[str, Any]]:
    names = [str(root / f"{row.name}.yaml") for row in rows]
    for name, row in zip(names, rows):
        Path(name).write_text(row_yaml(row))
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(root),
        "NDS_DATA": str(root),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    script = str(Path(__file__).parents[1] / "support/two_iterations.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, str(output), *names],
        env=environment, capture_output=True, text=True, timeout=590,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"config"')]


def _check(results: list[dict[str, Any]], rows: list[Row]) -> None:
    assert [Path(result["config"]).stem for result in results] == [row.name for row in rows]
    for result, row in zip(results, rows):
        assert result["stages"] == (["finetune"] if row.selector == "none" else ["pretrain", "finetune"])
        if row.selector != "none":
            assert result["images"]
            assert result["shared"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4", "5"])
def test_a_row_of_each_selector_of_the_papers_tables_trains_two_iterations(name: str, tmp_path: Path) -> None:
    pytest.importorskip("cityscapesscripts", reason="pip install --no-deps cityscapesscripts")
    write_cityscapes(tmp_path)
    (write_coco_2017 if name == "4" else write_openimages)(tmp_path)
    rows = _one_of_each_selector(GRIDS[name].rows)
    if name == "5":  # another source; the other selectors are table 4's
        rows = [row for row in rows if row.selector == "nds"]
    results = _two_iterations(tmp_path, tmp_path / "out", rows)
    _check(results, rows)
    drawn = [result["images"] for result, row in zip(results, rows) if row.selector in ("uniform", "nds")]
    assert set(drawn) == {6}
    shared = next(result["shared"] for result in results if result["shared"])
    assert {"car", "person", "truck", "bus", "train", "bicycle", "motorcycle"} == set(shared)


@pytest.mark.slow
def test_a_row_of_each_selector_of_the_mini_table_trains_two_iterations(tmp_path: Path) -> None:
    """All for one client; for the other the one whose oracle is picked by classes."""
    mini = GRIDS["mini"].rows
    rows = [*_one_of_each_selector(mini), find_row("ccp_modanet13_oracle_20", "mini")]
    sources = row_config(rows[0]).NDS.SOURCE.DATASETS
    write_photographs(tmp_path, [name.removeprefix("nds_data_").removesuffix("_train") for name in sources])
    _check(_two_iterations(tmp_path, tmp_path / "out", rows), rows)


@pytest.mark.slow
def test_rows_from_imagenet_weights_train_two_iterations(tmp_path: Path) -> None:
    """One of each client; dawn has boxes and no masks."""
    pytest.importorskip("timm", reason="timm is not installed: pip install nds_plugin[experts]")
    names = ("cityscapes_snds_20", "ccp_modanet13_none", "dawn_histogram_20")
    rows = [find_row(name, "mini_imagenet") for name in names]
    sources = row_config(rows[0]).NDS.SOURCE.DATASETS
    write_photographs(tmp_path, [name.removeprefix("nds_data_").removesuffix("_train") for name in sources])
    _check(_two_iterations(tmp_path, tmp_path / "out", rows), rows)
