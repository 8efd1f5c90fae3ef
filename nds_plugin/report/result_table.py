"""Results of a grid as a table: rows of (selector, budget), one column per metric, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.report.measures import METRICS
from nds_plugin.report.statistics import Difference, Estimate, estimate, paired_difference

MEANS = tuple(METRICS)
BASELINE = "uniform"
# The paper's words for methods and classes, where they differ.
_METHODS = {"imagenet_init": "none", "random_init": "none", "entire_dataset": "full"}
_CLASSES = {"motorcycle": "mcycle"}


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        selector, budget: what was run; ``images`` or share, see :func:`budget_label`.
        values: of each column, over the seeds.
        differences: to ``uniform`` at the same budget, paired over seeds; empty for itself and where
            there is no uniform row of that budget.
        seeds: that are there.
        paper: the paper's values by column, where it has this row.
        status: of cells that are not there: "missing" or "failed" by the seed ("0"), where targets are cells by both ("0/pets").
    """

    selector: str
    budget: float
    values: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    seeds: tuple[int, ...]
    paper: Mapping[str, float] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultTable:
    """A table of one client.

    Attributes:
        title: caption.
        source: name of the source ("COCO").
        columns: metrics, then categories.
        seeds: that every row should have.
        digits: decimals that are shown.
        from_random: training starts from random weights, not from those of ImageNet.
        targets: columns that are cells of their own; empty where a cell is a whole row of one seed.
        overrides: keys with values, in which all rows differ from their own configs; empty where they do not.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    seeds: tuple[int, ...]
    digits: int = 1
    from_random: bool = False
    targets: tuple[str, ...] = ()
    overrides: str = ""

    @property
    def cells(self) -> int:
        """Number of cells that should be there."""
        return len(self.rows) * len(self.seeds) * (len(self.targets) or 1)

    @property
    def missing(self) -> int:
        """Number of cells that are not there."""
        return sum(len(row.status) for row in self.rows)


def build_table(
    rows: Sequence[tuple[str, float]],
    entries: Sequence[Mapping[str, Any]],
    *,
    title: str,
    source: str,
    categories: Sequence[str],
    seeds: Sequence[int],
    paper: Mapping[str, Any] | None = None,
    failed: Mapping[tuple[str, float, int, str], str] | None = None,
    digits: int = 1,
    from_random: bool = False,
    means: Sequence[str] = MEANS,
    targets: Sequence[str] = (),
) -> ResultTable:
    """A table from the cells of one client.

    Args:
        rows: (selector, budget) in the table's order.
        entries: cells as in ``docs/benchmark.json``; those of other rows are left out.
        title, source: see :class:`ResultTable`.
        categories: of the columns after box and mask AP, in their order.
        seeds: that every row should have; others that are there count too.
        paper: the paper's table, as :func:`nds_plugin.report.paper.paper_table` gives it.
        failed: cells that failed, by (selector, budget, seed, target); the target is empty where there are no ``targets``.
        digits, from_random, targets: see :class:`ResultTable`.
        means: the columns before the categories.

    Raises:
        NDSError: the same seed of a row twice.
    """
    columns = (*means, *categories)
    found = _by_row(rows, entries)
    printed = _paper_rows(paper)
    built = tuple(
        TableRow(
            selector=row[0],
            budget=row[1],
            values={c: estimate(list(_by_seed(found[row].values(), c).values())) for c in columns},
            differences=_differences(row, found, columns),
            seeds=tuple(sorted(found[row])),
            paper=printed.get(row, {}),
            status={
                f"{seed}/{target}".rstrip("/"): "failed"
                if (*row, seed, target) in (failed or {})
                else "missing"
                for seed in seeds
                for target in targets or ("",)
                if not _is_there(found[row].get(seed), target)
            },
        )
        for row in rows
    )
    return ResultTable(title, source, columns, built, tuple(seeds), digits, from_random, tuple(targets))


_Row = tuple[str, float]
_Found = dict[_Row, dict[int, Mapping[str, Any]]]


def _by_row(rows: Sequence[_Row], entries: Sequence[Mapping[str, Any]]) -> _Found:
    """The cells of each row by their seed."""
    found: _Found = {row: {} for row in rows}
    for entry in entries:
        cells = found.get((entry["selector"], entry["budget"]))
        if cells is None:
            continue
        if entry["seed"] in cells:
            raise NDSError(
                f"two cells of {entry['selector']} at {entry['budget']} with seed {entry['seed']}: of different "
                "configs? Keep those of one."
            )
        cells[entry["seed"]] = entry
    return found


def _is_there(entry: Mapping[str, Any] | None, target: str) -> bool:
    return entry is not None and (not target or target in entry["per_category"])


def _differences(row: _Row, found: _Found, columns: Sequence[str]) -> dict[str, Difference]:
    baseline = found.get((BASELINE, row[1]))
    if baseline is None or row[0] == BASELINE:
        return {}
    ours, theirs = found[row].values(), baseline.values()
    return {c: paired_difference(_by_seed(ours, c), _by_seed(theirs, c)) for c in columns}


def value_of(entry: Mapping[str, Any], column: str) -> float | None:
    """A cell's number in a column: a metric, or the AP of a category."""
    value = entry[column] if column in MEANS else entry["per_category"].get(column)
    return None if value is None else float(value)


def measured(means: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The means that any of the cells has; all of them where there is no cell yet. A client may have boxes alone."""
    return tuple(name for name in means if not entries or any(entry[name] is not None for entry in entries))


def values_by_seed(
    entries: Sequence[Mapping[str, Any]], row: tuple[str, float], column: str
) -> dict[int, float]:
    """The numbers of a row (selector, budget) in a column, of the seeds that have one."""
    return _by_seed([entry for entry in entries if (entry["selector"], entry["budget"]) == row], column)


def _by_seed(cells: Iterable[Mapping[str, Any]], column: str) -> dict[int, float]:
    values = {entry["seed"]: value_of(entry, column) for entry in cells}
    return {seed: value for seed, value in sorted(values.items()) if value is not None}


def _paper_rows(paper: Mapping[str, Any] | None) -> dict[tuple[str, float], dict[str, float]]:
    if paper is None:
        return {}
    names = {short: long for long, short in _CLASSES.items()}
    columns = [names.get(name, name) for name in paper["columns"]]
    return {
        (_METHODS.get(row["method"], row["method"]), float(row["images"])): dict(zip(columns, row["values"]))
        for row in paper["rows"]
    }
