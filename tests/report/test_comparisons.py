"""Comparisons beside the table: with larger draws, and of other settings."""

from __future__ import annotations

from typing import Any

from nds_plugin.report.comparisons import larger_draws, other_settings
from nds_plugin.report.result_table import build_table

ROWS = [("none", 0.0), ("uniform", 0.2), ("nds", 0.2), ("uniform", 0.4), ("nds", 0.4)]


def _cell(selector: str, budget: float, seed: int, box: float, **more: Any) -> dict[str, Any]:
    means = {"AP_bb": box, "AP50_bb": 2 * box, "AP": box / 2, "AP50": box}
    return {"client": "city", "selector": selector, "budget": budget, "seed": seed, **means,
            "per_category": {}, "config_hash": "a" * 16, "seconds": 1.0, "detail": {}, **more}  # fmt: skip


CELLS = [
    *(_cell("none", 0.0, seed, 1.0) for seed in (0, 1)),
    *(_cell("uniform", 0.2, seed, 4.0 + seed) for seed in (0, 1)),
    *(_cell("nds", 0.2, seed, 7.0 + 2 * seed) for seed in (0, 1)),
    *(_cell("uniform", 0.4, seed, 5.0 + seed) for seed in (0, 1)),
    _cell("nds", 0.4, 0, 8.0),
]


def _lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]


def _of_the_target(key: str) -> bool:
    return key.startswith("NDS.TARGET.")


def _table(cells: list[dict[str, Any]]) -> Any:
    return build_table(ROWS, cells, title="t", source="COCO", categories=(), seeds=(0, 1), digits=2)


def test_every_row_meets_uniform_of_twice_its_budget_seed_by_seed() -> None:
    lines = _lines(larger_draws(_table(CELLS), CELLS))
    assert [line[:3] for line in lines[2:]] == [
        ["20 % against 40 %", "Uniform Sampling", "2"],
        ["20 % against 40 %", "NDS", "2"],
    ]
    # 7 - 5 and 9 - 6, so 2.5 with a standard error of 0.5; the quantile of one degree is 12.706
    assert lines[3][3:] == ["+2.50 [-3.85, +8.85]", "+1.25 [-1.93, +4.43]"]


def test_every_row_meets_the_whole_source() -> None:
    cells = [*CELLS, *(_cell("full", 1.0, seed, 6.0) for seed in (0, 1))]
    rows = [*ROWS, ("full", 1.0)]
    table = build_table(rows, cells, title="t", source="COCO", categories=(), seeds=(0, 1), digits=2)
    lines = [line for line in _lines(larger_draws(table, cells)) if line[0].endswith("100 %")]
    assert [line[0] for line in lines] == [f"{budget} % against 100 %" for budget in (20, 20, 40, 40)]
    assert lines[1][1:4] == ["NDS", "2", "+2.00 [-10.71, +14.71]"]  # 7 - 6 and 9 - 6


def test_without_uniform_of_twice_the_budget_there_is_no_such_table() -> None:
    cells = [cell for cell in CELLS if cell["budget"] != 0.4]
    assert larger_draws(_table(cells), cells) == ""


def test_other_settings_are_named_and_compared_with_the_tables_row_and_with_uniform() -> None:
    detail = {
        "changed": {
            "NDS.PARTITION.NUM_CLUSTERS": 4,
            "NDS.ORACLE.SOURCES": ["a", "b"],
            "NDS.ORACLE.CLASSES": [],
        }
    }
    others = [_cell("nds", 0.2, seed, 8.0 + seed, config_hash="b" * 16, detail=detail) for seed in (0, 1, 7)]
    others.append(_cell("uniform", 0.4, 0, 6.0, config_hash="c" * 16))
    first, second = _lines(other_settings(others, CELLS, _of_the_target, 2))[2:]
    assert first == [
        "city", "nds 20 %", "`NDS.PARTITION.NUM_CLUSTERS 4`, `NDS.ORACLE.SOURCES a, b`, `NDS.ORACLE.CLASSES ()`", "3", "10.67 ± 3.79",
        "5.33 ± 1.89", "+0.50 [-5.85, +6.85]", "+4.00 [+4.00, +4.00]", "b" * 16,
    ]  # fmt: skip
    assert second[2:] == ["an earlier config", "1", "6.00", "3.00", "-", "-", "c" * 16]


def test_a_setting_that_concerns_uniform_too_is_compared_with_uniform_under_it() -> None:
    detail = {"changed": {"NDS.TARGET.NUM_IMAGES": 400}}
    nds = [_cell("nds", 0.2, seed, 9.0, config_hash="b" * 16, detail=detail) for seed in (0, 1)]
    uniform = [_cell("uniform", 0.2, seed, 8.5, config_hash="c" * 16, detail=detail) for seed in (0, 1)]
    with_it = _lines(other_settings([*nds, *uniform], CELLS, _of_the_target, 2))
    assert with_it[2][-2] == "+0.50 [+0.50, +0.50]"
    assert _lines(other_settings(nds, CELLS, _of_the_target, 2))[2][-2] == "-"
    clusters = {
        "changed": {**detail["changed"], "NDS.PARTITION.NUM_CLUSTERS": 4}
    }  # which uniform does not know
    nds = [{**cell, "detail": clusters} for cell in nds]
    assert _lines(other_settings([*nds, *uniform], CELLS, _of_the_target, 2))[2][-2] == "+0.50 [+0.50, +0.50]"


def test_of_two_uniform_configs_with_the_same_setting_none_is_taken() -> None:
    detail = {"changed": {"NDS.TARGET.NUM_IMAGES": 400}}
    hashes = [("nds", "b"), ("uniform", "c"), ("uniform", "d")]
    cells = [_cell(name, 0.2, 0, 9.0, config_hash=sign * 16, detail=detail) for name, sign in hashes]
    assert _lines(other_settings(cells, CELLS, _of_the_target, 2))[2][-2] == "-"


def test_what_a_client_has_no_masks_for_is_not_called_missing() -> None:
    cells = [{**cell, "AP": None, "AP50": None} for cell in CELLS]
    assert "missing" not in larger_draws(_table(cells), cells)
    others = [{**cell, "config_hash": "b" * 16} for cell in cells]
    assert "missing" not in other_settings(others, cells, _of_the_target, 2)
