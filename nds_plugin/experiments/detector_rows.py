"""Rows that train a detector in Detectron2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.d2.config.deciding import concerns_every_row, config_hash, deciding_settings
from nds_plugin.d2.config.nodes import load_config, merged
from nds_plugin.d2.job.main_job import check_job
from nds_plugin.d2.model.size import count_parameters
from nds_plugin.experiments.benchmark_page import page_text
from nds_plugin.experiments.estimate import (
    PlannedRow,
    Stage,
    Work,
    detector_arithmetic,
    expert_work,
    planned_row,
    pretraining_rows,
)
from nds_plugin.experiments.results import details, record
from nds_plugin.experiments.rows import Cell, Grid, Row, differing, failed_of
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.report.paper import paper_table
from nds_plugin.report.result_table import MEANS, ResultTable, build_table, measured
from nds_plugin.report.run_files import WORK
from nds_plugin.selection.selectors import SELECTORS, Need

_TARGET_IMAGES = 2975  # Cityscapes' training images, where the config takes all


class DetectorRows:
    """See :class:`~nds_plugin.experiments.row_kinds.RowKind`."""

    module = "nds_plugin.commands.train"
    means: tuple[str, ...] = MEANS

    def row_config(self, row: Row, extra: Sequence[str] = ()) -> Any:
        return load_config(row.base, [*row.overrides, *extra])

    def config_hash(self, cfg: Any) -> str:
        return config_hash(cfg)

    def changed_settings(self, cfg: Any, usual: Any) -> dict[str, Any]:
        return differing(deciding_settings(cfg), deciding_settings(usual))

    def check(self, cfg: Any, output: Path, processes: int) -> None:
        cfg = cfg.clone()
        cfg.OUTPUT_DIR, cfg.NDS.WORK_DIR = str(output), str(output / WORK)
        check_job(cfg, processes)

    def on_gpu(self, cfg: Any) -> bool:
        return bool(cfg.MODEL.DEVICE.startswith("cuda"))

    def planned(
        self, grid: Grid, configs: Mapping[Row, Any], cells: Sequence[Cell], to_run: Sequence[Row]
    ) -> list[PlannedRow]:
        parameters: dict[str, int] = {}
        planned = []
        rows = dict.fromkeys(cell.row for cell in cells)
        pretraining = pretraining_rows(rows, to_run)
        for row in rows:
            cfg = configs[row]
            if row.client not in parameters:
                parameters[row.client] = count_parameters(cfg)
            work = planned_work(
                cfg,
                grid.test_images[row.client],
                parameters[row.client],
                grid.core_images,
                row in pretraining,
            )
            planned.append(planned_row(row, work, cells, to_run))
        return planned

    def arithmetic(self, rows: Sequence[PlannedRow]) -> list[str]:
        return detector_arithmetic(rows)

    def record(
        self, cell: Cell, document: Mapping[str, Any], config_hash: str, seconds: float
    ) -> dict[str, Any]:
        return record(cell, document, config_hash, seconds)

    def details(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return details(document)

    def tables(
        self,
        grid: Grid,
        entries: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        failed: Mapping[Cell, str],
    ) -> dict[str, ResultTable]:
        return {client: self._table(grid, client, entries, seeds, failed) for client in grid.clients}

    def _table(
        self,
        grid: Grid,
        client: str,
        entries: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        failed: Mapping[Cell, str],
    ) -> ResultTable:
        ours = [entry for entry in entries if entry["client"] == client]
        means = measured(MEANS, ours)
        classes = f" Classes by {'mask' if 'AP' in means else 'box'} AP." if ours else ""
        return build_table(
            [(row.selector, row.budget) for row in grid.rows if row.client == client],
            ours,
            title=(f"{client}: {grid.title}" if len(grid.clients) > 1 else grid.title) + classes,
            source=grid.source,
            categories=grid.categories[client],
            seeds=seeds,
            paper=paper_table(grid.name),
            failed=failed_of(failed, {client: ""}),
            digits=grid.digits,
            from_random=grid.from_random,
            means=means,
        )

    def page(
        self,
        tables: Mapping[str, ResultTable],
        current: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],
        stem: str,
    ) -> str:
        begun = {entry["client"] for entry in current}  # a table without a cell says nothing
        shown = {client: table for client, table in tables.items() if client in begun}
        digits = max(table.digits for table in tables.values())
        return page_text(shown, current, others, concerns_every_row, stem=stem, digits=digits)


def planned_work(
    cfg: Any, test_images: int, parameters: int, core_images: float, trains: bool = True
) -> Work:
    """What one run of a row does, for the estimate of its cost.

    Args:
        test_images: of the target's test datasets.
        parameters: of the detector, see :func:`nds_plugin.d2.model.size.count_parameters`.
        core_images: images a second that one core trains on or tests.
        trains: whether it pretrains, if it needs it, and does not take another run's weights.
    """
    nds = cfg.NDS
    pretrains = nds.SELECTOR != NO_PRETRAINING
    needs = SELECTORS[nds.SELECTOR].needs if pretrains else Need.NOTHING
    experts = expert_work(nds, needs)
    looks = bool(needs)  # at features of a shared network
    target = nds.SCORING.MAX_IMAGES or nds.TARGET.NUM_IMAGES or _TARGET_IMAGES
    return Work(
        pretrain=_stage(merged(cfg, nds.PRETRAIN)) if pretrains and trains else None,
        finetune=_stage(cfg),
        test_images=test_images * (2 if pretrains and nds.EVALUATE_PRETRAINED else 1),
        expert_crops=experts.steps * nds.EXPERTS.BATCH_SIZE,
        describing_crops=experts.describing_steps * nds.EXPERTS.BATCH_SIZE,
        scored=target * (4 * experts.networks or int(looks)),
        parameters=parameters,
        states=2 if nds.OPTIMIZER == "SGD" else 3,
        on_gpu=cfg.MODEL.DEVICE != "cpu",
        core_images=core_images,
    )


def _stage(cfg: Any) -> Stage:
    solver = cfg.SOLVER
    # One each period, and model_final beside that of the last iteration.
    return Stage(solver.MAX_ITER, solver.IMS_PER_BATCH, solver.MAX_ITER // solver.CHECKPOINT_PERIOD + 1)
