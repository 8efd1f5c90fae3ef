"""Which results a table keeps: of the config that it started with, and of one state of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.experiments.reproduce import Reproduction
from nds_plugin.experiments.spec import GRIDS, find_row

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
