"""What was found, as text for a terminal: a paragraph for each dataset, and a table like the paper's Table 3."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from nds_plugin.datasets.catalogue import DATASETS
from nds_plugin.datasets.preparing.building import MISSING as ABSENT
from nds_plugin.datasets.preparing.building import Outcome
from nds_plugin.datasets.preparing.checking import DAMAGED, FOUND, MISSING, DatasetState, SplitState
from nds_plugin.datasets.public import ROOT, PublicDataset, store_path

_TREE = 6  # columns in front of a tree
_LABEL = 12  # columns of a label and the space in front of it


def check_report(states: Sequence[DatasetState], root: Path, width: int) -> str:
    """The whole of ``--check``.

    Args:
        root: DETECTRON2_DATASETS.
        width: of the terminal, in columns.
    """
    stores = store_path(root, "").parent.absolute()
    head = f"{ROOT}  {root.absolute()}\n{'stores':{len(ROOT)}}  {stores}"
    parts = [head, *(paragraph(state, width) for state in states), count_table(states, width)]
    ready = [s.dataset.key for s in states if any(split.state == FOUND for split in s.splits)]
    if ready:
        parts.append(f"To build what is found: nds datasets --build {' '.join(ready)}")
    return "\n\n".join(parts)


def build_report(outcomes: Sequence[Outcome], width: int) -> str:
    """How the stores came out, a line for each, why some did not, and what is not there."""
    there = [outcome for outcome in outcomes if outcome.state != ABSENT]
    reasons: dict[str, list[str]] = {}
    for outcome in there:
        if outcome.reason:
            reasons.setdefault(outcome.reason, []).append(outcome.name)
    notes = [_marked("!", f"{', '.join(names)}: {reason}", width) for reason, names in reasons.items()]
    notes += [_marked("*", warning, width) for outcome in there for warning in outcome.warnings]
    absent = _shortened([outcome.name for outcome in outcomes if outcome.state == ABSENT])
    if absent:
        where = "--check shows where each is expected."
        notes.append(_marked("-", f"not there: {', '.join(absent)}. {where}", width))
    parts = ([_outcome_table(there)] if there else []) + (["\n".join(notes)] if notes else [])
    return "\n\n".join(parts)


def _outcome_table(outcomes: Sequence[Outcome]) -> str:
    return tabulate(
        [_outcome_cells(outcome) for outcome in outcomes],
        headers=["dataset", "store", "images", "objects", "MB", "seconds"],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", "left", *("right",) * 4),
    )


def _shortened(names: Sequence[str]) -> list[str]:
    """Names of splits, with the dataset's key in the place of all its splits."""
    short = []
    for dataset in DATASETS:
        found = [split.name for split in dataset.splits if split.name in names]
        short += [dataset.key] if len(found) == len(dataset.splits) else found
    return short


def _outcome_cells(outcome: Outcome) -> list[str]:
    found = ["-"] * 3
    if not outcome.reason:
        found = [f"{outcome.images:,}", f"{outcome.annotations:,}", f"{outcome.size / 1e6:,.1f}"]
    return [outcome.name, outcome.state, *found, f"{outcome.seconds:.1f}"]


def paragraph(state: DatasetState, width: int) -> str:
    """Where a dataset was looked for, and what to do about what is missing."""
    dataset = state.dataset
    lines = [f"{dataset.title}, {dataset.role}, {dataset.task}: {state.verdict}"]
    lines += _labelled("looked in", " or ".join(map(str, state.looked)), width)
    problems = {s.problem: s for s in state.splits if s.problem and (state.started or s.state != MISSING)}
    for problem, split in problems.items():
        lines += _labelled("missing" if split.state == MISSING else "problem", problem, width)
    if any(split.state == MISSING for split in state.splits):
        lines += _labelled("download", dataset.download, width)
        lines += _labelled("licence", dataset.licence, width)
    lines += _labelled("page", dataset.page, width)
    if any(split.state == MISSING for split in state.splits):
        lines += ["    expected:", *_tree(dataset.tree, width)]
    return "\n".join(lines)


def _labelled(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"    {label:{_LABEL - 4}} ".ljust(_LABEL + 2),
        subsequent_indent=" " * (_LABEL + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _tree(tree: str, width: int) -> list[str]:
    """The lines of a tree; what does not fit goes on below the line's own beginning."""
    lines = []
    for line in tree.splitlines():
        name = line.lstrip()
        indent = " " * (_TREE + len(line) - len(name))
        lines += textwrap.wrap(
            name, width, initial_indent=indent, subsequent_indent=f"{indent}    ", break_on_hyphens=False
        )
    return lines


def count_table(states: Sequence[DatasetState], width: int) -> str:
    """The paper's counts beside those found; differences are marked, and explained below."""
    groups = [
        (
            f"{s.dataset.title}, {s.dataset.paper_classes} classes",
            [_cells(s.dataset, split) for split in s.splits],
        )
        for s in states
    ]
    heads = [["", "images", "images   ", "classes  "], ["dataset", "in paper", "found   ", "found  "]]
    cells = [*heads, *(row for _, rows in groups for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads[0]))]
    lines = [*(_line(head, widths) for head in heads), "  ".join("-" * length for length in widths)]
    for title, rows in groups:
        lines += [title, *(_line(row, widths) for row in rows)]
    table = "\n".join(lines)
    notes = _notes(states, width)
    return "\n".join([table, *([""] if notes else []), *notes])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers = (f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(cells))
    return "  ".join([first, *numbers]).rstrip()


def _cells(dataset: PublicDataset, state: SplitState) -> list[str]:
    mark = ("*" if state.differs else "") + ("~" if state.counted else "")
    found = "damaged" if state.state == DAMAGED else _number(state.images)
    return [
        f"  {state.split.name}",
        _number(state.split.paper_images),
        f"{found} {mark:<2}",
        f"{_number(state.classes)} {'*' if _classes_differ(dataset, state) else ' '}",
    ]


def _classes_differ(dataset: PublicDataset, state: SplitState) -> bool:
    known = {int(number) for number in re.findall(r"\d+", dataset.paper_classes)}
    return state.classes is not None and state.classes not in known


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _notes(states: Sequence[DatasetState], width: int) -> list[str]:
    """The marks of the table."""
    differing, counted = [], []
    for state in states:
        for split in state.splits:
            name = split.split.name
            if split.differs:
                differing.append(f"{name}: {_difference(split)}")
            if _classes_differ(state.dataset, split):
                differing.append(
                    f"{name}: {split.classes} classes, the paper has {state.dataset.paper_classes}."
                )
            if split.counted:
                counted.append(f"{name} ({split.counted})")
    notes = [_marked("*", line, width) for line in differing]
    if counted:
        how = "no store yet; counted without reading the images: " + ", ".join(counted)
        notes.append(_marked("~", f"{how}. --build makes sure.", width))
    return notes


def _difference(state: SplitState) -> str:
    split, paper, published = state.split, state.split.paper_images, state.split.images
    found = f"{state.images:,}"
    if state.images == published:
        reason = f" {split.note[0].upper()}{split.note[1:]}." if split.note else ""
        return f"{found} images, as published; the paper prints {_number(paper)}.{reason}"
    expected = f"{_number(published)} are published" + (
        f", the paper prints {_number(paper)}" if paper is not None and paper != published else ""
    )
    return f"{found} images, but {expected}: not the whole dataset, or not the provider's lists."


def _marked(mark: str, text: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent=f"{mark} ", subsequent_indent="  ", break_on_hyphens=False
    )
