"""A :class:`ResultTable` as text, Markdown, LaTeX, CSV, JSON, and in the paper's own form."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from nds_plugin.report.measures import METRICS
from nds_plugin.report.result_table import ResultTable, TableRow
from nds_plugin.report.statistics import CONFIDENCE, Difference, Estimate
from nds_plugin.selection.selectors import SELECTORS

_SEES, _BY_HAND = "†", "‡"
_MARKS = (
    (_SEES, "looks at the target's images or at features of them; NDS and the gate see K numbers only."),
    (_BY_HAND, "draws from images that were chosen by hand, to see what room there is; no method."),
)
_PLAIN = {"AP_bb": "AP^bb", "AP50_bb": "AP50^bb", "AP": "AP", "AP50": "AP50", "motorcycle": "mcycle"}
_PAPER = {**_PLAIN, "AP_bb": "AP^{bb}", "AP50_bb": "AP_{50}^{bb}", "AP50": "AP_{50}"}
_LATEX = {**_PLAIN, "AP_bb": "$AP^{bb}$", "AP50_bb": "$AP^{bb}_{50}$", "AP": "$AP$", "AP50": "$AP_{50}$"}
_TEX = {
    **{sign: f"\\{sign}" for sign in "%&_#${}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "-": "$-$",
}  # fmt: skip
MISSING = "missing"


def budget_label(budget: float) -> str:
    """``23K`` images, or ``20 %`` of the source."""
    if budget > 1:
        return f"{budget / 1000:.0f}K"
    return "0" if budget == 0 else f"{100 * budget:.0f} %"


def method_label(selector: str, source: str, from_random: bool = False) -> str:
    """What the paper calls a row."""
    if selector == "full":
        return f"Full {source}"
    if selector == "none":
        return "No pretraining" if from_random else "ImageNet Initialization"
    if selector not in SELECTORS:  # of a package that is not installed here
        return selector
    known = SELECTORS[selector]
    marks = [mark for mark, holds in ((_SEES, known.sees_target), (_BY_HAND, known.by_hand)) if holds]
    return " ".join([known.label, *marks])


def source_label(dataset: str) -> str:
    """The name of a source dataset in tables, without what all names have."""
    return dataset.removeprefix("nds_data_").removesuffix("_train")


def paper_form(table: ResultTable) -> str:
    """The rows as the paper's supplementary material prints them: means alone, tabs between."""
    lines = [[_overridden(table).strip()]] if table.overrides else []
    lines += [["Data (# Images)", "Method", *(_PAPER.get(c, c) for c in table.columns)]]
    for row, label in zip(table.rows, _budget_column(table.rows)):
        means = [row.values[c].mean for c in table.columns]
        shown = [MISSING if mean is None else f"{mean:.{table.digits}f}" for mean in means]
        lines.append([label, _method(table, row), *shown])
    return "".join("\t".join(line).rstrip("\t") + "\n" for line in lines)


def text(table: ResultTable) -> str:
    """Aligned columns, then the differences to uniform, then what is missing."""
    return _document(table, "simple")


def markdown(table: ResultTable) -> str:
    """The same as Markdown."""
    return _document(table, "github")


def latex(table: ResultTable) -> str:
    r"""The same as two ``table*`` environments, as wide as the page; needs ``\usepackage{booktabs,graphicx}``.

    Differences are those of the means over classes alone: with every class they would not be legible.
    """
    parts = []
    means = [column for column in table.columns if column in METRICS]
    notes = " ".join(_notes(table))
    for caption, (header, body) in (
        (f"{_caption(table)} {notes}".strip(), _values(table, _LATEX)),
        (_difference_caption().rstrip(":") + ".", _differences(table, _LATEX, means)),
    ):
        if not body:
            continue
        lines = [" & ".join(_tex(cell) for cell in line) + r" \\" for line in body]
        parts.append(
            "\\begin{table*}\n\\centering\n\\caption{" + _tex(caption) + "}\n"
            "\\resizebox{\\textwidth}{!}{%\n\\begin{tabular}{ll" + "r" * (len(header) - 2) + "}\n\\toprule\n"
            + " & ".join(h if "$" in h else _tex(h) for h in header)
            + " \\\\\n\\midrule\n" + "\n".join(lines) + "\n\\bottomrule\n\\end{tabular}}\n\\end{table*}\n"
        )  # fmt: skip
    return "\n".join(parts)


def comma_separated(table: ResultTable) -> str:
    """One line per row and column, for other programs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["selector", "budget", "metric", "mean", "spread", "seeds", "paper", "difference", "low", "high", "pairs",
         "missing_seeds", "overrides"]
    )  # fmt: skip
    for row in table.rows:
        absent = " ".join(f"{seed}:{status}" for seed, status in row.status.items())
        for column in table.columns:
            value, change = row.values[column], row.differences.get(column)
            writer.writerow(
                [row.selector, row.budget, column, value.mean, value.spread, value.n, row.paper.get(column)]
                + ([change.mean, change.low, change.high, change.n] if change else [None] * 4)
                + [absent, table.overrides]
            )
    return buffer.getvalue()


def as_json(table: ResultTable) -> str:
    """Columns and rows, shaped as the paper's: ``{"columns": [...], "rows": [{"images", "method", "values"}]}``.

    Each row also holds ``spread``, ``seeds``, ``missing``, ``paper`` and ``difference`` ({column: [mean, low,
    high, pairs]}).
    """
    rows = [
        {
            "images" if row.budget > 1 or row.budget == 0 else "share": row.budget,
            "method": row.selector,
            "values": [row.values[c].mean for c in table.columns],
            "spread": [row.values[c].spread for c in table.columns],
            "seeds": list(row.seeds),
            "missing": dict(row.status),
            "paper": [row.paper.get(c) for c in table.columns] if row.paper else None,
            "difference": {c: [d.mean, d.low, d.high, d.n] for c, d in row.differences.items()},
        }
        for row in table.rows
    ]
    document = {
        "title": table.title,
        "overrides": table.overrides,
        "columns": list(table.columns),
        "seeds": list(table.seeds),
        "rows": rows,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[ResultTable], str]] = {
    "txt": text,
    "tsv": paper_form,
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
    "json": as_json,
}


def as_sections(table: ResultTable, title: str) -> list[dict[str, Any]]:
    """The table and its differences for a page; see ``tables`` in :func:`nds_plugin.report.html.write_report`."""
    caption = " ".join([_caption(table), *_notes(table)])
    sections = [(title, caption, _values(table, METRICS))]
    if any(row.differences for row in table.rows):
        text = _difference_caption().rstrip(":") + "."
        sections.append((f"{title}: difference to uniform", text, _differences(table, METRICS)))
    # Budget and method in one cell, which stays in view where a narrow screen scrolls the table.
    shown = _shown(table)
    names = [f"{budget_label(row.budget)} {_method(table, row)}".removeprefix("0 ") for row in shown]
    changed = [name for name, row in zip(names, shown) if row.differences]
    return [
        {"title": heading, "text": text, "header": ["", *header[2:]],
         "rows": [[name, *line[2:]] for name, line in zip(labels, body, strict=True)]}
        for (heading, text, (header, body)), labels in zip(sections, (names, changed))
    ]  # fmt: skip


def difference_text(change: Difference, digits: int = 1, none: str = MISSING) -> str:
    """``+2.1 [+0.8, +3.4]``; without interval where there is one pair, ``none`` where there is no pair."""
    if change.mean is None:
        return none
    if change.low is None or change.high is None:
        return f"{change.mean:+.{digits}f} [one seed]"
    return f"{change.mean:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def estimate_text(value: Estimate, digits: int = 1, none: str = MISSING) -> str:
    """``40.7 ± 0.3``; without spread where there is one run, ``none`` where there is no run."""
    shown = none if value.mean is None else f"{value.mean:.{digits}f}"
    return shown if value.spread is None else f"{shown} ± {value.spread:.{digits}f}"


def _document(table: ResultTable, form: str) -> str:
    parts = [_caption(table)]
    for title, (header, body) in (
        ("", _values(table, _PLAIN)),
        (_difference_caption(), _differences(table, _PLAIN)),
    ):
        if body:
            alignment = ("left", "left", *["right"] * (len(header) - 2))
            parts += [title] if title else []
            parts.append(tabulate(body, header, tablefmt=form, disable_numparse=True, colalign=alignment))
    if notes := _notes(table):
        parts.append("  \n".join(notes))
    return "\n\n".join(parts) + "\n"


def _values(table: ResultTable, names: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    header = ["Data", "Method", "seeds", *(names.get(c, c) for c in table.columns)]
    shown = _shown(table)
    body = [
        [label, _method(table, row), f"{len(row.seeds)}/{len({*row.seeds, *table.seeds})}"]
        + [_value(table, row, c) for c in table.columns]
        for row, label in zip(shown, _budget_column(shown))
    ]
    return header, body


def _shown(table: ResultTable) -> tuple[TableRow, ...]:
    """Rows of which something is known; the others are named in the note on missing cells. All, if none is begun."""
    known = tuple(row for row in table.rows if row.paper or not _is_empty(row))
    return known or table.rows


def _is_empty(row: TableRow) -> bool:
    return not row.seeds and set(row.status.values()) == {MISSING}


def _differences(
    table: ResultTable, names: dict[str, str], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; of all columns of the table by default."""
    columns = columns or table.columns
    header = ["Data", "Method", "pairs", *(names.get(c, c) for c in columns)]
    body = []
    for row in _shown(table):
        if row.differences:
            pairs = max(difference.n for difference in row.differences.values())
            cells = [_difference(row.differences[c], pairs, table.digits) for c in columns]
            body.append([budget_label(row.budget), _method(table, row), str(pairs), *cells])
    return header, body


def _difference(change: Difference, pairs: int, digits: int) -> str:
    return difference_text(change, digits) + (f" (n = {change.n})" if 0 < change.n < pairs else "")


def _value(table: ResultTable, row: TableRow, column: str) -> str:
    value = row.values[column]
    fewer = f" (n = {value.n})" if 0 < value.n < len(row.seeds) else ""
    return f"{estimate_text(value, table.digits)}{fewer}" + (
        f" ({row.paper[column]:.{table.digits}f})" if column in row.paper else ""
    )


def _caption(table: ResultTable) -> str:
    paper = "; in brackets the paper" if any(row.paper for row in table.rows) else ""
    return f"{table.title} Means over seeds ± standard deviation{paper}.{_overridden(table)}"


def _overridden(table: ResultTable) -> str:
    return f" All rows with {table.overrides}." if table.overrides else ""


def _difference_caption() -> str:
    return (
        f"Difference to uniform sampling at the same budget, paired over seeds, with its {CONFIDENCE:.0%} interval "
        "(t distribution):"
    )


def _notes(table: ResultTable) -> list[str]:
    labels = [_method(table, row) for row in _shown(table)]
    notes = [f"{mark} {meaning}" for mark, meaning in _MARKS if any(m.endswith(mark) for m in labels)]
    if table.missing:
        notes.append(f"{table.missing} of {table.cells} cells are missing: {_missing(table)}.")
    return notes


def _missing(table: ResultTable) -> str:
    """Rows of which nothing is there in one list, the others with their seeds."""
    empty, partly = [], []
    for row in table.rows:
        name = f"{_method(table, row)} {budget_label(row.budget)}"
        seeds = ", ".join(f"{s}{'' if why == MISSING else f' ({why})'}" for s, why in row.status.items())
        if _is_empty(row):
            empty.append(name)
        elif row.status:
            partly.append(f"{name} seed{'s' if len(row.status) > 1 else ''} {seeds}")
    return "; ".join([*partly, *([f"all of {', '.join(empty)}"] if empty else [])])


def _method(table: ResultTable, row: TableRow) -> str:
    return method_label(row.selector, table.source, table.from_random)


def _budget_column(rows: Sequence[TableRow]) -> list[str]:
    """Labels of the budgets, each once where rows of one budget follow each other."""
    labels = [budget_label(row.budget) for row in rows]
    return [label if i == 0 or labels[i - 1] != label else "" for i, label in enumerate(labels)]


def _tex(cell: str) -> str:
    return re.sub(r"(?<!\w)-(?=\d)|[^\w-]|_", lambda found: _TEX.get(found[0], found[0]), cell)


def write_tables(table: ResultTable, stem: str, write: Callable[[str, str], Any]) -> Sequence[str]:
    """Write all formats by ``write(name, content)``; the names."""
    names = [f"{stem}.{suffix}" for suffix in FORMATS]
    for name, form in zip(names, FORMATS.values()):
        write(name, form(table))
    return names
