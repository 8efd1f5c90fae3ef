"""What a table needs of the kind of its rows: a detector, or a classifier from self-supervised weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nds_plugin.experiments.estimate import PlannedRow
from nds_plugin.experiments.rows import Cell, Grid, Row
from nds_plugin.report.result_table import ResultTable


class RowKind(Protocol):
    """The configs of rows, the command that runs one, and the tables of their results."""

    module: str  # that is run, as by python -m
    means: tuple[str, ...]  # measures of a cell

    def row_config(self, row: Row, extra: Sequence[str] = ()) -> Any:
        """The config of a row, with overrides that hold for the whole grid."""

    def config_hash(self, cfg: Any) -> str:
        """Hash of what makes a row what it is."""

    def changed_settings(self, cfg: Any, usual: Any) -> dict[str, Any]:
        """The deciding settings in which a config differs from the row's own."""

    def check(self, cfg: Any, output: Path, processes: int) -> None:
        """Refuse what would make a cell fail; ``output`` is the grid's folder."""

    def on_gpu(self, cfg: Any) -> bool:
        """Whether a cell runs on a GPU."""

    def planned(
        self, grid: Grid, configs: Mapping[Row, Any], cells: Sequence[Cell], to_run: Sequence[Row]
    ) -> list[PlannedRow]:
        """The rows of the plan of some cells, of which a row is in ``to_run`` as often as it is to be run."""

    def arithmetic(self, rows: Sequence[PlannedRow]) -> list[str]:
        """The lines of a plan that say how its hours were computed."""

    def record(
        self, cell: Cell, document: Mapping[str, Any], config_hash: str, seconds: float
    ) -> dict[str, Any]:
        """The cell's entry from the results document of its run."""

    def details(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What else is kept of it."""

    def tables(
        self,
        grid: Grid,
        entries: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        failed: Mapping[Cell, str],
    ) -> dict[str, ResultTable]:
        """The tables of a grid, by name, from its cells."""

    def page(
        self,
        tables: Mapping[str, ResultTable],
        current: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],
        stem: str,
    ) -> str:
        """The generated part of a page in docs/."""


def kind_of(grid: Grid) -> RowKind:
    """The kind of a grid's rows; what it needs is imported only here."""
    if grid.kind == "classifier":
        from nds_plugin.experiments.classifier_rows import ClassifierRows

        return ClassifierRows()
    from nds_plugin.experiments.detector_rows import DetectorRows

    return DetectorRows()
