"""The plan of a table: what it counts, and the arithmetic that it shows."""

from __future__ import annotations

import pytest

from nds_plugin.experiments.detector_rows import DetectorRows, planned_work
from nds_plugin.experiments.estimate import (
    ExpertWork,
    PlannedRow,
    Stage,
    Work,
    expert_work,
    plan_text,
    pretraining_rows,
)
from nds_plugin.experiments.spec import GRIDS, find_row
from nds_plugin.selection.selectors import SELECTORS


def test_the_plan_is_the_arithmetic_that_it_shows() -> None:
    work = Work(Stage(17_500, 16, 4), Stage(24_000, 8, 5), 1000, 1_000_000, 3000, 44_000_000, 2, True)
    assert work.pretrain_hours == pytest.approx(17_500 * 16 * (0.261 * 8 / 16) / 3600)
    assert work.finetune_hours == pytest.approx((24_000 * 8 * 0.240 + 1000 * 0.078) / 3600)
    assert work.expert_hours == pytest.approx(4_000_000 / 1000 / 3600)
    assert work.kept_bytes == 2 * 44_000_000 * 2 * 4
    assert work.running_bytes == 9 * 44_000_000 * 2 * 4
    none = Work(None, Stage(24_000, 8, 5), 500, 0, 0, 44_000_000, 2, True)
    shown = plan_text("T", [PlannedRow("none", none, 3, 0), PlannedRow("nds_23k", work, 2, 1)], 1)
    runs = 3 * none.hours + 2 * work.hours
    assert f"Time: {runs:.1f} GPU h of runs + {work.expert_hours:.1f} GPU h of experts" in shown
    assert "5 cells to run, 1 finished." in shown
    assert "0.261 s x 8 GPUs / 16 images = 0.1305 GPU s an image" in shown
    assert "MODEL_ZOO.md" in shown


def test_a_pretraining_that_clients_share_is_counted_for_the_row_that_is_run_most() -> None:
    rows = [
        row for row in GRIDS["mini_imagenet"].rows if row.selector in ("none", "uniform", "oracle", "nds")
    ]
    rows = [row for row in rows if row.budget in (0, 0.2)]
    to_run = [row for row in rows if row.client != "cityscapes"] + [find_row("dawn_25_uniform_20")]
    counted = {row.name for row in pretraining_rows(rows, to_run) if row.selector != "nds"}
    assert counted == {"dawn_25_uniform_20", "cityscapes_25_oracle_20", "ccp_modanet13_oracle_20"}
    assert sum(row.selector == "nds" for row in pretraining_rows(rows, to_run)) == 6


def test_a_plan_counts_the_experts_of_each_seed_that_has_its_own() -> None:
    work = Work(Stage(10, 8, 1), Stage(10, 8, 1), 10, 1_000_000, 10, 100, 3, True)
    shown = plan_text("T", [PlannedRow("nds", work, 3, 0)], 1, expert_sets=3)
    assert f"{3 * work.expert_hours:.1f} GPU h of experts, once a seed (3)" in shown


def test_a_finished_grid_costs_nothing_more() -> None:
    work = Work(Stage(10, 8, 1), Stage(10, 8, 1), 10, 100, 10, 1000, 3, False, 10)
    shown = plan_text("T", [PlannedRow("nds", work, 0, 3)], 2)
    assert "0 cells to run, 3 finished." in shown
    assert "nds: 170 images (training and test) at 10 a second" in shown
    assert "Time: 0.0 core h of runs + 0.0 core h of experts" in shown


def test_a_plan_counts_the_last_checkpoint_beside_that_of_the_last_period() -> None:
    row = find_row("cityscapes_none", "mini")
    for length, checkpoints in (("120", 4), ("119", 3)):
        words = ["SOLVER.MAX_ITER", length, "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "40"]
        work = planned_work(DetectorRows().row_config(row, words), 1, 1, 1.0)
        assert work.finetune.checkpoints == checkpoints


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nds",), ExpertWork(9, 1000 + 8 * 80)),
        (("gate",), ExpertWork(0, 1000)),
        (("gate", "NDS.PARTITION.NETWORK", "package:efficientnet-lite0"), ExpertWork(0, 0)),
        (("uniform",), ExpertWork(0, 0)),
        (("snds", "NDS.SNDS.DATASETS", "('known',)"), ExpertWork(9, 1000, 1000 + 8 * 80)),
        (("snds", "NDS.SNDS.EXPERTS", "folder"), ExpertWork(9, 1000)),
        (("nds", "NDS.EXPERTS.KIND", "head"), ExpertWork(1, 0)),
        (("snds", "NDS.EXPERTS.KIND", "head"), ExpertWork(1, 0)),
    ],
)
def test_what_a_selector_asks_of_experts(words: tuple[str, ...], expected: ExpertWork) -> None:
    nds = DetectorRows().row_config(find_row("cityscapes_nds_20", "mini"), ["NDS.SELECTOR", *words]).NDS
    assert expert_work(nds, SELECTORS[words[0]].needs) == expected


def test_a_plan_counts_the_experts_of_the_source_and_those_that_describe_it() -> None:
    work = Work(Stage(10, 8, 1), Stage(10, 8, 1), 10, 1_000_000, 10, 100, 3, True, describing_crops=500_000)
    shown = plan_text("T", [PlannedRow("nds", work, 1, 0), PlannedRow("snds", work, 1, 0)], 1)
    assert f"{1.5 * work.expert_hours:.1f} GPU h of experts" in shown
    assert f"500,000 crops, likewise = {work.describing_hours:.1f} GPU h" in shown
