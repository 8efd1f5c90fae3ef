"""The figure of AP against budget: a line per selector, a band or bars for the spread over seeds."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.report.canvas import GREY, GRID, MUTED, new_figure, save_figure, styled
from nds_plugin.report.measures import METRICS
from nds_plugin.report.result_table import ResultTable, TableRow
from nds_plugin.report.table_formats import budget_label, method_label
from nds_plugin.selection.selectors import SELECTORS

FIXED = ("none", "full")  # drawn as level lines: they have no budget to vary


@styled
def budget_curve(table: ResultTable, path: str | os.PathLike[str], metric: str = "AP_bb") -> Path:
    """AP against budget.

    Args:
        table: of one client.
        path: of the picture, PNG or SVG by its ending.
        metric: a column of the table.

    Raises:
        NDSError: no such column, or not one value in it.
    """
    if metric not in table.columns:
        raise NDSError(f"curve: the table has no column {metric!r}, but {', '.join(table.columns)}.")
    drawn = [row for row in table.rows if row.values[metric].mean is not None]
    if not drawn:
        raise NDSError(f"curve: not one cell of the table has {metric}.")
    figure = new_figure(4.8, 4.4)  # narrow: a phone shows it whole
    axes = figure.add_subplot()
    budgets = sorted({row.budget for row in table.rows if row.selector not in FIXED})
    moved = beside_each_other(drawn, budgets)
    for selector in dict.fromkeys(row.selector for row in drawn if row.selector not in FIXED):
        _line(axes, [row for row in drawn if row.selector == selector], metric, table, moved)
    for row in (row for row in drawn if row.selector in FIXED):
        _level(axes, row, metric, table)
    axes.set_xticks(budgets, [budget_label(budget) for budget in budgets])
    axes.set_xlabel(f"budget ({'images' if budgets and budgets[-1] > 1 else 'share'} of {table.source})")
    axes.set_title(f"{METRICS.get(metric, metric)}, band or bar: ± standard deviation; open: one seed")
    axes.set_axisbelow(True)
    axes.yaxis.grid(True, color=GRID)
    axes.tick_params(length=0)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.tight_layout()
    return save_figure(figure, path)


def beside_each_other(drawn: Sequence[TableRow], budgets: Sequence[float]) -> dict[str, float]:
    """How far selectors of a single budget stand from it, so that none hides another."""
    count = Counter(row.selector for row in drawn if row.selector not in FIXED)
    single = [row for row in drawn if count[row.selector] == 1]
    step = 0.03 * ((budgets[-1] - budgets[0]) or 1.0)
    groups = {row.budget: [r.selector for r in single if r.budget == row.budget] for row in single}
    return {
        name: step * (place - (len(names) - 1) / 2)
        for names in groups.values()
        for place, name in enumerate(names)
    }


def _line(
    axes: Any, rows: Sequence[TableRow], metric: str, table: ResultTable, moved: Mapping[str, float]
) -> None:
    rows = sorted(rows, key=lambda row: row.budget)
    selector = rows[0].selector
    colour = SELECTORS[selector].colour if selector in SELECTORS else MUTED
    x = [row.budget + moved.get(row.selector, 0.0) for row in rows]
    values = [row.values[metric] for row in rows]
    means = [float(value.mean or 0.0) for value in values]
    spreads = [math.nan if value.spread is None else value.spread for value in values]
    whole = len(rows) > 1 and not any(map(math.isnan, spreads))
    shape = "o-" if len(rows) > 1 else "D"
    label = method_label(rows[0].selector, table.source, table.from_random)
    if whole:
        low, high = zip(*((m - s, m + s) for m, s in zip(means, spreads)))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    error = None if whole else spreads
    axes.errorbar(x, means, yerr=error, fmt=shape, color=colour, label=label, markersize=5, capsize=3)
    one = [(place, mean) for place, mean, spread in zip(x, means, spreads) if math.isnan(spread)]
    if one:  # of one seed, whose spread nobody knows
        axes.plot(*zip(*one), shape[0], color=colour, markersize=5, markerfacecolor="white", zorder=3)


def _level(axes: Any, row: TableRow, metric: str, table: ResultTable) -> None:
    value = row.values[metric]
    mean = float(value.mean or 0.0)
    style = (0, (4, 3)) if row.selector == "none" else "solid"
    label = method_label(row.selector, table.source, table.from_random)
    axes.axhline(mean, color=GREY, linewidth=1.2, linestyle=style, label=label)
    if value.spread is not None:
        axes.axhspan(mean - value.spread, mean + value.spread, color=GREY, alpha=0.15, linewidth=0)
