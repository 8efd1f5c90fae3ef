"""The part of a page such as ``docs/benchmark.md`` that is made from the collected cells, between two markers."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nds_plugin.errors import NDSError
from nds_plugin.experiments.mixture import told_mixture
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.report.comparisons import larger_draws, other_settings
from nds_plugin.report.result_table import BASELINE, ResultTable, build_table, measured, values_by_seed
from nds_plugin.report.statistics import Difference, estimate, paired_difference, seeds_needed
from nds_plugin.report.table_formats import budget_label, markdown, method_label, source_label

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
ROOM = ("oracle", 0.2)  # the row whose lead over uniform is the room that a selector has
_Entry = Mapping[str, Any]


def write_page(path: str | os.PathLike[str], generated: str) -> None:
    """Replace the generated part of a page; the rest is written by hand.

    Raises:
        NDSError: see :func:`check_page`.
    """
    before, after = _by_hand(path)
    with atomic_write(path, "w") as file:
        file.write(f"{before}{BEGIN}\n{generated}{END}{after}")


def check_page(path: str | os.PathLike[str]) -> None:
    """Refuse a page that the tables cannot go into, before they are made.

    Raises:
        NDSError: no such file, or it does not hold the two markers.
    """
    _by_hand(path)


def _by_hand(path: str | os.PathLike[str]) -> tuple[str, str]:
    """What stands before and after the generated part."""
    if not Path(path).is_file():
        raise NDSError(
            f"{path}: no such page; write one that holds the lines {BEGIN} and {END}, between which the tables go."
        )
    before, begin, rest = Path(path).read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NDSError(f"{path}: expected the lines {BEGIN} and {END}, between which the tables go.")
    return before, after


def page_text(
    tables: Mapping[str, ResultTable],
    current: Sequence[_Entry],
    others: Sequence[_Entry],
    concerns_every_row: Callable[[str], bool],
    *,
    stem: str,
    digits: int,
) -> str:
    """Tables, noise and room, AP before fine-tuning, draws and costs, and the cells of other configs.

    Args:
        tables: of each client with finished cells.
        current: cells of the present configs, with what else is known of each under ``detail``.
        others: cells of other configs, with the same.
        concerns_every_row: whether a setting is one that uniform sampling depends on, too.
        stem: name of the page, without its ending.
        digits: of the AP of cells of other configs, after the point.
    """
    parts = []
    for client, table in tables.items():
        entries = [entry for entry in current if entry["client"] == client]
        parts.append(f"### {client}\n\n{markdown(table)}")
        parts += told_mixture(entries)
        if has_curve(table):
            parts.append(f"![Box AP against budget, {client}]({curve_name(stem, client)})\n")
        if entries:
            if any((row.selector, row.budget) == ROOM for row in table.rows):
                parts.append(f"#### Noise and room, {client}\n\n{_noise(entries)}")
            parts.append(larger_draws(table, entries))
            parts.append(_before(table, entries))
            parts.append(_draws(table, entries))
    if others:
        parts.append(other_settings(others, current, concerns_every_row, digits))
    return "\n".join(part for part in parts if part)


def has_curve(table: ResultTable, metric: str = "AP_bb") -> bool:
    """Whether there is anything to draw of a metric."""
    return metric in table.columns and any(row.values[metric].mean is not None for row in table.rows)


def curve_name(stem: str, client: str) -> str:
    """The curve's file beside the page."""
    return f"{stem}_{client}.svg"


def _before_finetuning(entries: Sequence[_Entry]) -> list[dict[str, Any]]:
    """The cells with AP of the pretrained detector in place of that of the fine-tuned one."""
    return [
        {**entry, "AP_bb": before["AP_bb"], "AP": before["AP"], "per_category": before["per_category_bb"]}
        for entry in entries
        if (before := entry["detail"].get("before_finetuning"))
    ]


def _noise(entries: Sequence[_Entry]) -> str:
    """Spread of uniform over seeds, the room up to the oracle, and how many seeds would show it."""
    uniform = (BASELINE, ROOM[1])
    measures = (
        ("box AP", "AP_bb", entries),
        ("mask AP", "AP", entries),
        ("box AP before fine-tuning, shared classes", "AP_bb", _before_finetuning(entries)),
    )
    lines = []
    for label, column, cells in measures:
        base, top = values_by_seed(cells, uniform, column), values_by_seed(cells, ROOM, column)
        noise, room = estimate(list(base.values())), paired_difference(top, base)
        lines.append([label, *_noise_cells(noise.n, noise.mean, noise.spread), *_room_cells(room)])
    header = ["measure", f"uniform {budget_label(uniform[1])}", "its spread", "seeds", "room (oracle - uniform)",
              "standard error", "room / error", "pairs", "seeds for 3 errors"]  # fmt: skip
    return tabulate(lines, header, tablefmt="github", disable_numparse=True) + "\n"


def _noise_cells(n: int, mean: float | None, spread: float | None) -> list[str]:
    return [_number(mean), _number(spread), str(n)]


def _room_cells(room: Difference) -> list[str]:
    needed = "-"
    if room.mean is not None and room.error is not None:
        needed = str(seeds_needed(room.mean, room.error * room.n**0.5) or "no room")
    ratio = "-" if not room.error or room.mean is None else f"{room.mean / room.error:.1f}"
    return [_number(room.mean, "+.2f"), _number(room.error), ratio, str(room.n), needed]


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _before(table: ResultTable, entries: Sequence[_Entry]) -> str:
    """The table of AP before fine-tuning, over the classes that source and client share."""
    before = _before_finetuning(entries)
    if not before:
        return ""
    classes = sorted({name for entry in before for name in entry["per_category"]})
    rows = [(row.selector, row.budget) for row in table.rows if row.selector != "none"]
    shared = build_table(
        rows,
        before,
        title=f"Before fine-tuning: the pretrained detector on the client's test images, means over the {len(classes)} "
        f"shared classes, then box AP of each.",
        source=table.source,
        categories=classes,
        seeds=table.seeds,
        digits=table.digits,
        from_random=table.from_random,
        means=measured(("AP_bb", "AP"), before),
    )
    return f"#### Before fine-tuning\n\n{markdown(shared)}"


def _draws(table: ResultTable, entries: Sequence[_Entry]) -> str:
    """What each row draws, as means over its seeds, and what it costs the client."""
    lines = []
    for row in table.rows:
        of_row = [e["detail"] for e in entries if (e["selector"], e["budget"]) == (row.selector, row.budget)]
        found = [detail for detail in of_row if detail.get("drawn")]
        if not found:
            continue
        drawn = [detail["drawn"] for detail in found]
        names = sorted({name for shares in drawn for name in shares})
        means = {name: statistics.fmean(shares.get(name, 0.0) for shares in drawn) for name in names}
        first = sorted(means.items(), key=lambda item: -item[1])[:6]
        costs = [detail["cost"] for detail in found if detail.get("cost")]
        passes = f"{statistics.fmean(c['forward_passes'] for c in costs):,.0f}" if costs else "0"
        times = [c["seconds"] for c in costs if c["seconds"] is not None]
        seconds = f"{statistics.fmean(times):.1f}" if times else "?" if costs else "0"
        lines.append(
            [
                budget_label(row.budget),
                method_label(row.selector, table.source, table.from_random),
                f"{statistics.fmean(d['images'] for d in found):.0f}",
                ", ".join(f"{source_label(name)} {share:.0%}" for name, share in first),
                passes,
                seconds,
            ]
        )
    if not lines:
        return ""
    header = ["Data", "Method", "images", "drawn from", "client's forward passes", "client's seconds"]
    return f"#### What is drawn, and what it costs the client\n\n{tabulate(lines, header, tablefmt='github', disable_numparse=True)}\n"
