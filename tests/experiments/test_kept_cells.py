"""Which results a table keeps: of the config that it started with, and of one state of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.errors import NDSError
from nds_plugin.experiments.detector_rows import DetectorRows
from nds_plugin.experiments.reproduce import Reproduction
from nds_plugin.experiments.results import key_of, write_results_file
from nds_plugin.experiments.runner import CELL
from nds_plugin.experiments.spec import GRIDS, find_row
from nds_plugin.files.artifacts import write_json
from nds_plugin.report.table_formats import text

SUPPORT = Path(__file__).parents[1] / "support"


def _table(root: Path, name: str = "mini", seeds: tuple[int, ...] = (0,), **options: Any) -> Reproduction:
    """Of a single row."""
    row = find_row("cityscapes_uniform_20", name)
    grid = replace(GRIDS[name], rows=(row,), categories={row.client: ("car",)})
    return Reproduction(grid, root / "out", root / "cells.json", seeds=seeds, **options)


def _train_nothing(table: Reproduction, config: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Let the cells of a table leave results as if they had been trained with this config."""
    means = dict.fromkeys(("AP_bb", "AP50_bb", "AP", "AP50"), 1.0)
    document = {
        "selector": "uniform", "seed": table.seeds[0], "config": config, "times": {}, "versions": {}, "machine": {},
        "summary": {**means, "per_category": {"car": 2.0}, "per_category_bb": {"car": 3.0}}, **more,
    }  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setenv("GIVEN_RESULTS", json.dumps(document))
    table.kind.module = "given_results"


@pytest.mark.parametrize(("name", "seed"), [("mini", 0), ("mini_imagenet", 2)])
def test_results_are_kept_under_the_config_that_they_were_trained_with(
    name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _table(tmp_path, name, (seed,))
    own = ["SEED", seed, *(("NDS.PARTITION.SEED", seed, "NDS.EXPERTS.SEED", seed) if seed else ())]
    row = table.cells[0].row
    trained = table.kind.row_config(row, list(map(str, own)))
    changed = table.kind.row_config(row, [*map(str, own), "SOLVER.MAX_ITER", "121"])
    _train_nothing(table, changed.dump(), monkeypatch)
    told = "its results cannot be used: the config of cityscapes_uniform_20 changed while the grid ran"
    assert told in table.run(1).failed[f"cityscapes_uniform_20/seed{seed}"]
    assert not table.results.read()["cells"]
    _train_nothing(table, trained.dump(), monkeypatch)
    assert not table.run(1).failed
    assert [cell["seed"] for cell in table.results.read()["cells"]] == [seed]


def _kept(table: Reproduction, monkeypatch: pytest.MonkeyPatch, *words: str, **more: Any) -> None:
    """Run the cells of a table as if all went well."""
    trained = table.kind.row_config(table.cells[0].row, list(words)).dump()
    _train_nothing(table, trained, monkeypatch, **more)
    assert not table.run(1).failed


def test_cells_of_different_data_do_not_come_into_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that does not say of which data it is, as those of before, is taken as it is."""
    selection = {"sources": [], "images": 1}
    _kept(_table(tmp_path), monkeypatch)
    _kept(_table(tmp_path, seeds=(1,)), monkeypatch, selection={**selection, "index": "a" * 64})
    other = _table(tmp_path, seeds=(2,))
    text = other.kind.row_config(other.cells[0].row).dump()
    _train_nothing(other, text, monkeypatch, selection={**selection, "index": "b" * 64})
    with pytest.raises(NDSError, match="the index of the source was aaaaaaaaaa and bbbbbbbbbb"):
        other.run(1)  # and no further cell is started
    assert other.tables()["cityscapes"].rows[0].seeds == (0, 1)
    document = other.results.read()
    document["details"][key_of(document["cells"][0])]["index"] = "c" * 64
    write_results_file(other.results.path, document)
    with pytest.raises(NDSError, match="cells of different data"):
        other.tables()


def test_a_page_counts_the_cells_of_each_machine_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, cpu in enumerate(("EPYC", "EPYC", "Xeon")):
        versions = {"torch": "2.0", "numpy": str(seed)}
        _kept(_table(tmp_path, seeds=(seed,)), monkeypatch, machine={"cpu": cpu}, versions=versions)
    table = _table(tmp_path)
    assert "Cells by processor: EPYC (2), Xeon (1).\n" in table.page(table.tables())


def test_tables_say_in_every_form_what_was_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["SOLVER.MAX_ITER", "121", "TEST.AUG.MIN_SIZES", "(9,)"]
    table = _table(tmp_path, overrides=words)
    _kept(table, monkeypatch, *words)
    written = {path.name: path.read_text() for path in table.write(table.tables()) if path.suffix != ".png"}
    assert len(written) == 7
    for name, content in written.items():
        told = "SOLVER.MAX_ITER 121, TEST.AUG.MIN_SIZES (9,)"
        assert (told.replace("_", r"\_") if name.endswith("tex") else told) in content, name
    assert f"All rows with {told}." in table.page(table.tables())


def test_the_page_of_a_grid_shows_a_finished_cell_of_the_present_config_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = find_row("cityscapes_nds_20", "mini")
    grid = replace(GRIDS["mini"], rows=(row,), categories={row.client: ("car",)})
    table = Reproduction(grid, tmp_path, tmp_path / "cells.json", seeds=(0, 1))
    for seed, config_hash in enumerate(("another", table.hashes[row.identity])):
        folder = tmp_path / f"cityscapes_nds_20/seed{seed}"
        folder.mkdir(parents=True)
        run = {"selection": None, "times": {}, "versions": {}, "machine": {}, "config": ""}
        write_json(folder / "results.json", "results", "", run)
        write_json(folder / CELL, "cell", config_hash, {})
    table.write(table.tables())
    page = (tmp_path / "report.html").read_text()
    assert "What is shown of a single run is of cityscapes_nds_20/seed1." in page


@pytest.mark.parametrize(("mask", "words"), [(1.0, "mask"), (None, "box")])
def test_a_table_has_the_measures_that_its_client_has(mask: float | None, words: str, tmp_path: Path) -> None:
    """DAWN has boxes and no masks."""
    row = find_row("dawn_uniform_20", "mini_imagenet")
    grid = replace(GRIDS["mini_imagenet"], rows=(row,), categories={"dawn": ("car",)})
    means = {"AP_bb": 2.0, "AP50_bb": 3.0, "AP": mask, "AP50": mask}
    entry = {
        "client": "dawn",
        "selector": "uniform",
        "budget": 0.2,
        "seed": 0,
        **means,
        "per_category": {"car": 2.0},
    }
    shown = text(DetectorRows().tables(grid, [entry], (0,), {})["dawn"])
    assert f"Classes by {words} AP." in shown
    assert "missing" not in shown
    assert (" AP50 " in shown) == (mask is not None)
