"""Rows and cells of tables, and the grid that a table is made of."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nds_plugin.errors import unknown_name
from nds_plugin.report.run_files import WORK

Own = tuple[tuple[str, Any], ...]  # keys and values
EXPERT_SEEDS = ("NDS.PARTITION.SEED", "NDS.EXPERTS.SEED")  # 0 in all configs of rows
CORE_IMAGES = 0.07  # images a second that one core trains on: Mask R-CNN R50-FPN at 800 pixels in fp32


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        client: name of the target.
        selector: as in ``NDS.SELECTOR``.
        budget: share of the source in [0, 1], or above 1 a number of images; 0 for ``none``, and for
            ``full`` 1.0 or the images of the source.
        name: in one word, of its own within the table.
        base: the config that it is based on, as ``nds train --config`` takes it.
        own: what it changes of the base beside selector and budget.
    """

    client: str
    selector: str
    budget: float
    name: str
    base: str
    own: Own = ()

    @property
    def settings(self) -> dict[str, Any]:
        """All that its config changes of the base, by key."""
        drawn = self.selector not in ("none", "full")
        budget = {"NDS.BUDGET.IMAGES" if self.budget > 1 else "NDS.BUDGET.SHARE": self.budget}
        folder = self.base.partition("/")[0]
        return {
            "NDS.SELECTOR": self.selector,
            **(budget if drawn else {}),
            **dict(self.own),
            "OUTPUT_DIR": f"output/{folder}/{self.name}/seed0",
        }

    @property
    def overrides(self) -> list[str]:
        """The same as ``KEY VALUE`` pairs of the command line."""
        return [word for key, value in self.settings.items() for word in (key, str(value))]

    @property
    def identity(self) -> tuple[str, str, float]:
        """What makes two results those of one row."""
        return (self.client, self.selector, self.budget)


@dataclass(frozen=True)
class Cell:
    """One run: a row and the seed of its selection, initialisation and order."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """``row/seedN``: its folder below the grid's."""
        return f"{self.row.name}/seed{self.seed}"

    @property
    def identity(self) -> tuple[str, str, float, int]:
        """What makes two results those of one cell."""
        return (*self.row.identity, self.seed)


def cell_overrides(
    cell: Cell, output: Path, extra: Sequence[str] = (), *, own_experts: bool = False
) -> list[str]:
    """``KEY VALUE`` pairs that make a row's config that of a cell under the grid's folder ``output``."""
    seeds = ["SEED", "NDS.SEED", *(EXPERT_SEEDS if own_experts else ())]
    return [
        *(word for key in seeds for word in (key, str(cell.seed))),
        *("OUTPUT_DIR", str(output / cell.name), "NDS.WORK_DIR", str(output / WORK)),
        *extra,
    ]


@dataclass(frozen=True)
class Grid:
    """A table to be made.

    Attributes:
        name: ``4``, ``5``, ``mini`` or another.
        title: caption of the table.
        source: name of the source in row labels ("COCO").
        rows: in the order of the table.
        seeds: by default.
        categories: of each client, in the order of the table's columns.
        test_images: of each client, or each target of a classifier.
        digits: decimals of the table.
        from_random: training starts from random weights, not from those of ImageNet.
        own_experts: each seed has a partition and experts of its own.
        core_images: images a second that one core trains on or tests, for the plan of a table on CPUs.
        train_images: of each target of a classifier, to be scored.
        kind: what its cells train: a detector, or a classifier from self-supervised weights. There, a table is of a
            method, and its columns ``categories`` are the targets.
    """

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    categories: dict[str, tuple[str, ...]]
    test_images: dict[str, int]
    digits: int = 1
    from_random: bool = False
    own_experts: bool = False
    core_images: float = CORE_IMAGES
    train_images: dict[str, int] = field(default_factory=dict)
    kind: str = "detector"

    @property
    def folder(self) -> str:
        """Of its runs, below ``output/``."""
        return f"table{self.name}" if self.name.isdigit() else self.name

    @property
    def clients(self) -> list[str]:
        """Names of the clients, in order; each has a table of its own."""
        return list(self.categories)

    def cells(self, seeds: Sequence[int] | None = None, only: Sequence[str] = ()) -> list[Cell]:
        """The cells seed by seed, all rows of one seed before the next: a partial grid is balanced.

        Args:
            seeds: the grid's own when None.
            only: patterns of row names, such as ``cityscapes_*_20``; all rows when empty.

        Raises:
            NDSError: a pattern that fits no row.
        """
        for pattern in only:
            if not any(fnmatch.fnmatchcase(row.name, pattern) for row in self.rows):
                raise unknown_name(
                    f"row of table {self.name}",
                    pattern,
                    [row.name for row in self.rows],
                    f"nds tables --table {self.name} --dry-run",
                )
        rows = [row for row in self.rows if not only or any(fnmatch.fnmatchcase(row.name, p) for p in only)]
        return [Cell(row, seed) for seed in (self.seeds if seeds is None else seeds) for row in rows]


def failed_of(
    failed: Mapping[Cell, str], clients: Mapping[str, str]
) -> dict[tuple[str, float, int, str], str]:
    """Why cells failed, by selector, budget, seed and the target of the client; of these clients alone."""
    return {
        (cell.row.selector, cell.row.budget, cell.seed, clients[cell.row.client]): why
        for cell, why in failed.items()
        if cell.row.client in clients
    }


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our values of the settings that differ; None where we have no such setting."""
    names = sorted(ours.keys() | theirs.keys())
    return {name: ours.get(name) for name in names if ours.get(name) != theirs.get(name)}
