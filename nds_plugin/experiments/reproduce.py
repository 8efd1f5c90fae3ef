"""Make a table: plan its grid, run the missing cells, collect what is finished, write tables and figures."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nds_plugin.errors import NDSError
from nds_plugin.experiments.benchmark_page import curve_name, has_curve, write_page
from nds_plugin.experiments.curve import budget_curve
from nds_plugin.experiments.estimate import looks_at_client, plan_text
from nds_plugin.experiments.grid_page import write_grid_page
from nds_plugin.experiments.results import ResultsFile, check_one_source, key_of, of_configs
from nds_plugin.experiments.row_kinds import kind_of
from nds_plugin.experiments.rows import EXPERT_SEEDS, Cell, Grid, Row, cell_overrides
from nds_plugin.experiments.runner import CELL, Job, Outcome, run_jobs
from nds_plugin.files.artifacts import atomic_write, check_writable, read_json, write_json
from nds_plugin.report.result_table import ResultTable
from nds_plugin.report.runs import load_run
from nds_plugin.report.table_formats import write_tables
from nds_plugin.store.parts import usable_cores

logger = logging.getLogger(__name__)

# What makes a cell the one that its name says, and the option that chooses it.
_OF_THE_CELL = {
    "SEED": "--seeds", "NDS.SEED": "--seeds", "OUTPUT_DIR": "--output", "NDS.WORK_DIR": "--output",
    "NDS.SELECTOR": "--only", "NDS.BUDGET.IMAGES": "--only", "NDS.BUDGET.SHARE": "--only",
    "DATASETS.TRAIN": "--only", "DATASETS.TEST": "--only",
}  # fmt: skip


class Reproduction:
    """One grid in one folder.

    Args:
        grid: what to run.
        output: folder of the cells, ``output/<row>/seed<n>``, and of the tables.
        results: file that collects finished cells; those in it are not run again.
        seeds, only: which cells, see :meth:`Grid.cells`.
        overrides: ``KEY VALUE`` pairs for all cells; part of what a result is made from.
        processes: of one cell, ``--num-gpus`` of ``nds train``.

    Raises:
        NDSError: a config that cannot be read, an override of what the cell's name says, or a number of
            processes below 1.
    """

    def __init__(
        self,
        grid: Grid,
        output: Path,
        results: Path,
        *,
        seeds: Sequence[int] | None = None,
        only: Sequence[str] = (),
        overrides: Sequence[str] = (),
        processes: int = 1,
    ) -> None:
        if processes < 1:
            raise NDSError(f"--num-gpus must be 1 or more, got {processes}.")
        self.grid = grid
        self.output = output.resolve()
        self.kind = kind_of(grid)
        self.results = ResultsFile(results, self.kind.means)
        self.seeds = tuple(grid.seeds if seeds is None else seeds)
        self.cells = grid.cells(self.seeds, only)
        self._overrides = list(overrides)
        self._check_overrides()
        self._processes = processes
        self.configs: dict[Row, Any] = {row: self.kind.row_config(row, overrides) for row in grid.rows}
        self.hashes = {row.identity: self.kind.config_hash(cfg) for row, cfg in self.configs.items()}

    def _check_overrides(self) -> None:
        """Refuse to replace what the name of a cell says."""
        seeds = EXPERT_SEEDS if self.grid.own_experts else ()
        own = {key: "--only" for cell in self.cells for key, _ in cell.row.own if ".SOLVER." not in key}
        options = {**_OF_THE_CELL, **dict.fromkeys(seeds, "--seeds"), **own}
        for key in self._overrides[::2]:
            if key in options:
                raise NDSError(
                    f"{key} cannot be overridden: it is what tells the cells apart; use {options[key]}."
                )

    def jobs(self) -> list[Job]:
        """The cells that have no result yet, in the order in which they are run."""
        jobs = [self._job(cell) for cell in self._missing(self.cells)]
        return [job for job in jobs if not job.is_done]

    def _missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that are not in the file of results."""
        current, _ = self._kept()
        finished = {(e["client"], e["selector"], e["budget"], e["seed"]) for e in current}
        return [cell for cell in cells if cell.identity not in finished]

    def _kept(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The collected cells of these configs, and those of others, each with what else is known under ``detail``."""
        document = self.results.read()
        details = document["details"]
        cells = [{**entry, "detail": details.get(key_of(entry), {})} for entry in document["cells"]]
        return of_configs(cells, self.hashes)

    def _job(self, cell: Cell) -> Job:
        command = [sys.executable, "-m", self.kind.module, "--config-file", cell.row.base]
        command += ["--num-gpus", str(self._processes)] if self._processes > 1 else []
        own = self.grid.own_experts
        command += cell.row.overrides
        command += cell_overrides(cell, self.output, self._overrides, own_experts=own)
        return Job(cell, self.output / cell.name, tuple(command), self.hashes[cell.row.identity])

    def plan(self, jobs: int = 1, keep_checkpoints: bool = False) -> str:
        """What would be run and what it costs, as text."""
        _check_jobs(jobs)
        missing = [job.cell for job in self.jobs()]
        to_run = [cell.row for cell in missing]
        rows = self.kind.planned(self.grid, self.configs, self.cells, to_run)
        name = f"Table {self.grid.name}" if self.grid.name.isdigit() else self.grid.name
        seeds = {cell.seed for cell in missing if looks_at_client(cell.row)}
        sets = len(seeds) if self.grid.own_experts else 1
        return plan_text(
            f"{name}: {self.grid.title}", rows, jobs, keep_checkpoints, self.kind.arithmetic(rows), sets
        )

    def check(self) -> None:
        """Refuse what would make cells fail, before the first one is started.

        Raises:
            NDSError: the results cannot be written, or what the main job refuses at its start.
        """
        check_writable(self.results.path.absolute().parent)
        for row in dict.fromkeys(job.cell.row for job in self.jobs()):
            try:
                self.kind.check(self.configs[row], self.output, self._processes)
            except NDSError as error:
                raise NDSError(f"row {row.name}: {error}") from None

    def run(
        self, jobs: int, *, retries: int = 1, time_limit: float | None = None, keep_checkpoints: bool = False
    ) -> Outcome:
        """Run the missing cells, ``jobs`` at a time; results are kept as each is finished."""

        def finish(job: Job, seconds: float) -> None:
            self._keep(job, seconds)
            if not keep_checkpoints:
                remove_intermediate_checkpoints(job.folder)

        on_gpu = any(self.kind.on_gpu(cfg) for cfg in self.configs.values())
        slots = slots_of(jobs, self._processes, torch.cuda.device_count() if on_gpu else 0)
        return run_jobs(self.jobs(), slots, finish, retries=retries, time_limit=time_limit)

    def _keep(self, job: Job, seconds: float) -> None:
        document = read_json(job.folder / "results.json", "results")
        self._check_trained(job, document["config"])
        entry = self.kind.record(job.cell, document, job.config_hash, seconds)
        usual = self.kind.row_config(job.cell.row)
        changed = self.kind.changed_settings(self.configs[job.cell.row], usual)
        kept = {**self.kind.details(document), "changed": changed}
        self._add(entry, kept)
        write_json(job.folder / CELL, "cell", job.config_hash, {"entry": entry, "details": kept})

    def _add(self, entry: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        check_one_source([*(known["detail"] for known in self._kept()[0]), details])
        self.results.add(entry, details)

    def _check_trained(self, job: Job, config: str) -> None:
        """Refuse the results of another config than this runner's: the files may have changed since it started."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            file.write(config)
            file.flush()
            seeds = [word for key in EXPERT_SEEDS if self.grid.own_experts for word in (key, "0")]
            trained = self.kind.row_config(replace(job.cell.row, base=file.name), seeds)
        if self.kind.config_hash(trained) != job.config_hash:
            raise NDSError(
                f"the config of {job.cell.row.name} changed while the grid ran; start the command again to use the new one."
            )

    def collect(self) -> None:
        """Put into the file of results what finished cells left in their folders."""
        known = {key_of(entry) for entry in self.results.read()["cells"]}
        for cell in self.cells:
            job = self._job(cell)
            if job.is_done:
                kept = read_json(job.folder / CELL, "cell")
                if key_of(kept["entry"]) not in known:
                    self._add(kept["entry"], kept["details"])

    def tables(self, failed: Mapping[str, str] | None = None) -> dict[str, ResultTable]:
        """The tables by client, or by method, of the cells that this config made.

        Raises:
            NDSError: cells of different data.
        """
        current, others = self._kept()
        check_one_source(entry["detail"] for entry in current)
        if others:
            logger.log(
                logging.INFO if current else logging.WARNING,
                "%d cells in %s are of other configs (overrides, another table) and not in the tables.",
                len(others), self.results.path,
            )  # fmt: skip
        broken = {cell: (failed or {})[cell.name] for cell in self.cells if cell.name in (failed or {})}
        tables = self.kind.tables(self.grid, current, self.seeds, broken)
        pairs = zip(self._overrides[::2], self._overrides[1::2])
        changed = ", ".join(f"{key} {value}" for key, value in pairs)
        return {name: replace(table, overrides=changed) for name, table in tables.items()}

    def write_page(self, path: Path, tables: Mapping[str, ResultTable]) -> None:
        """Write the generated part of a page such as ``docs/benchmark.md``, and the curves beside it.

        Raises:
            NDSError: see :func:`nds_plugin.experiments.benchmark_page.write_page`.
        """
        write_page(path, self.page(tables, path.stem))
        for client, table in tables.items():
            if has_curve(table):
                budget_curve(table, path.with_name(curve_name(path.stem, client)))

    def page(self, tables: Mapping[str, ResultTable], stem: str = "benchmark") -> str:
        """The generated part of ``docs/STEM.md``."""
        current, others = self._kept()
        return self.kind.page(tables, current, others, stem)

    def write(self, tables: Mapping[str, ResultTable]) -> list[Path]:
        """Write the tables in all formats, the curves of AP against budget and the page; the paths."""
        paths: list[Path] = []
        curves: list[Path] = []

        def write(name: str, content: str) -> None:
            paths.append(self.output / name)
            with atomic_write(paths[-1], "w") as file:
                file.write(content)

        for client, table in tables.items():
            stem = "table" if len(tables) == 1 else f"table_{client}"
            write_tables(table, stem, write)
            for metric in ("AP_bb", "AP"):
                if has_curve(table, metric):
                    name = f"{stem.replace('table', 'curve')}_{metric}.png"
                    curves.append(budget_curve(table, self.output / name, metric))
        paths += curves
        cells = self.grid.cells(self.seeds)
        counts = len(cells), len(self._missing(cells))
        page = self.output / "report.html"
        paths.append(write_grid_page(page, self.grid.title, tables, curves, counts, *self._shown_run()))
        return paths

    def _shown_run(self) -> tuple[str, dict[str, Any] | None]:
        """Name and results document of a finished cell that selected by scores, for the pictures of the page."""
        for job in map(self._job, self.cells):
            if job.cell.row.selector == "nds" and job.is_done and (job.folder / "results.json").is_file():
                return job.cell.name, load_run(job.folder)
        return "", None


def slots_of(jobs: int, processes: int, gpus: int) -> list[dict[str, str]]:
    """The environment of each place for a cell: its own GPUs, or its part of the cores.

    Args:
        gpus: that torch sees; 0 for cells on CPUs.

    Raises:
        NDSError: more GPUs asked for than there are, or a CUDA_VISIBLE_DEVICES that does not name those which torch sees.
    """
    _check_jobs(jobs)
    if gpus:
        if jobs * processes > gpus:
            raise NDSError(
                f"--jobs {jobs} x --num-gpus {processes} needs {jobs * processes} GPUs, torch sees {gpus}."
            )
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = (
            [str(i) for i in range(gpus)]
            if visible is None
            else [name for name in map(str.strip, visible.split(",")) if name]
        )
        if len(names) != gpus:
            raise NDSError(f"CUDA_VISIBLE_DEVICES is {visible!r}, but torch sees {gpus} GPUs: name those.")
        return [
            {"CUDA_VISIBLE_DEVICES": ",".join(names[i * processes : (i + 1) * processes])}
            for i in range(jobs)
        ]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // (jobs * processes)))
    return [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]


def _check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise NDSError(f"--jobs must be 1 or more, got {jobs}.")


def remove_intermediate_checkpoints(folder: Path) -> None:
    """Leave ``model_final.pth`` of each stage of a finished run alone."""
    for path in folder.glob("*/model_[0-9]*.pth"):
        path.unlink()
