"""Comparisons beside the table itself: with larger draws, and of other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from nds_plugin.report.result_table import BASELINE, ResultTable, values_by_seed
from nds_plugin.report.statistics import estimate, paired_difference
from nds_plugin.report.table_formats import budget_label, difference_text, estimate_text, method_label

_Entry = Mapping[str, Any]
_Row = tuple[str, str, float]  # client, selector, budget


def larger_draws(table: ResultTable, entries: Sequence[_Entry]) -> str:
    """Each row against uniform sampling of twice its budget, and against the whole source, paired over seeds.

    Empty where there is neither.

    Args:
        table: of one client.
        entries: its cells.
    """
    rows = [row for row in table.rows if row.selector not in ("none", "full")]
    full = [row for row in table.rows if row.selector == "full"]
    pairs = [(row, BASELINE, 2 * row.budget) for row in rows]
    pairs += [(row, whole.selector, whole.budget) for row in rows for whole in full]
    lines = []
    for row, other, budget in pairs:
        box, mask = (
            paired_difference(
                values_by_seed(entries, (row.selector, row.budget), column),
                values_by_seed(entries, (other, budget), column),
            )
            for column in ("AP_bb", "AP")
        )
        if not box.n:
            continue
        lines.append(
            [
                f"{budget_label(row.budget)} against {budget_label(budget)}",
                method_label(row.selector, table.source, table.from_random),
                str(box.n),
                difference_text(box, table.digits),
                difference_text(mask, table.digits, "-"),
            ]
        )
    if not lines:
        return ""
    header = ["Data", "Method", "pairs", "box AP", "mask AP"]
    return f"#### Against uniform sampling of twice the budget, and against the whole source\n\n{_markdown(lines, header)}"


def other_settings(
    others: Sequence[_Entry],
    current: Sequence[_Entry],
    concerns_every_row: Callable[[str], bool],
    digits: int,
) -> str:
    """Cells of other configs than the table's, a line per config.

    Args:
        others: cells with their ``detail``, whose ``changed`` holds the settings that differ.
        current: the cells of the tables.
        concerns_every_row: whether a setting is one that uniform sampling depends on, too: the row then stands
            against uniform sampling under the same of these settings, if that is of a single config; else
            against the table's.
        digits: decimals that are shown.
    """

    def for_every_row(entry: _Entry) -> dict[str, Any]:
        return {key: value for key, value in _changed(entry).items() if concerns_every_row(key)}

    groups: dict[tuple[_Row, str], list[_Entry]] = {}
    for entry in others:
        groups.setdefault((_row(entry), entry["config_hash"]), []).append(entry)
    lines = []
    for (row, config), cells in groups.items():
        client, selector, budget = row
        box = {cell["seed"]: cell["AP_bb"] for cell in cells}
        mask = [cell["AP"] for cell in cells if cell["AP"] is not None]
        ours = [entry for entry in current if entry["client"] == client]
        usual = values_by_seed(ours, (selector, budget), "AP_bb")
        changed, told = _changed(cells[0]), for_every_row(cells[0])
        if told:
            ours = [e for e in others if e["client"] == client and for_every_row(e) == told]
        configs = {e["config_hash"] for e in ours if (e["selector"], e["budget"]) == (BASELINE, budget)}
        uniform = values_by_seed(ours if len(configs) == 1 else (), (BASELINE, budget), "AP_bb")
        # Of an earlier base config nothing is known that would make it comparable.
        against = [paired_difference(box, known if changed else {}) for known in (usual, uniform)]
        lines.append(
            [
                client,
                f"{selector} {budget_label(budget)}",
                ", ".join(f"`{key} {_value(value)}`" for key, value in changed.items())
                or "an earlier config",
                str(len(cells)),
                estimate_text(estimate(list(box.values())), digits),
                estimate_text(estimate(mask), digits, "-"),
                difference_text(against[0], digits, "-"),
                difference_text(against[1], digits, "-") if selector != BASELINE else "-",
                config,
            ]
        )
    header = ["client", "row", "setting", "seeds", "box AP", "mask AP", "box AP against the table's row",
              "against uniform", "config"]  # fmt: skip
    return f"### Cells of other configs\n\nNot in the tables above.\n\n{_markdown(lines, header)}"


def _changed(cell: _Entry) -> Mapping[str, Any]:
    """The settings that make a config another one than the table's."""
    return cell["detail"].get("changed") or {}


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) or "()" if isinstance(value, (list, tuple)) else str(value)


def _row(entry: _Entry) -> _Row:
    return entry["client"], entry["selector"], entry["budget"]


def _markdown(lines: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    return tabulate(lines, header, tablefmt="github", disable_numparse=True) + "\n"
