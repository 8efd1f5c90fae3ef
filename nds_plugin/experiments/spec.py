"""The grids of the tables: rows of (client, selector, budget), each of them a config file; a cell is a row and a seed."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nds_plugin.errors import NDSError, unknown_name

CITYSCAPES = ("car", "truck", "rider", "bicycle", "person", "bus", "motorcycle", "train")
CCP = (
    *("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants", "top", "shorts", "skirt"),
    *("headwear", "scarf & tie"),
)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        client: name of the target.
        selector: as in ``NDS.SELECTOR``.
        budget: share of the source in [0, 1], or above 1 a number of images; 0 for ``none``, and for
            ``full`` 1.0 or the images of the source.
        config: config file, as ``nds train --config`` takes it.
    """

    client: str
    selector: str
    budget: float
    config: str

    @property
    def name(self) -> str:
        """The row in one word: its config without folder and ending."""
        return self.config.rpartition("/")[2].removesuffix(".yaml")

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


@dataclass(frozen=True)
class Grid:
    """A table to be made.

    Attributes:
        name: ``4``, ``5`` or ``mini``.
        title: caption of the table.
        source: name of the source in row labels ("COCO").
        rows: in the order of the table.
        seeds: by default.
        categories: of each client, in the order of the table's columns.
        test_images: of each client.
        digits: decimals of the table.
        from_random: training starts from random weights, not from those of ImageNet.
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
                raise unknown_name(f"row of table {self.name}", pattern, [row.name for row in self.rows])
        rows = [row for row in self.rows if not only or any(fnmatch.fnmatchcase(row.name, p) for p in only)]
        return [Cell(row, seed) for seed in (self.seeds if seeds is None else seeds) for row in rows]


def _paper_rows(folder: str, budgets: Sequence[int], full: int) -> tuple[Row, ...]:
    client = "cityscapes"
    drawn = [
        Row(client, selector, budget, f"{folder}/{selector}_{budget // 1000}k.yaml")
        for budget in budgets
        for selector in ("uniform", "nds")
    ]
    none, whole = (
        Row(client, "none", 0, f"{folder}/none.yaml"),
        Row(client, "full", full, f"{folder}/full.yaml"),
    )
    return (none, *drawn, whole)


def _mini_rows(client: str) -> tuple[Row, ...]:
    def row(selector: str, percent: int) -> Row:
        return Row(client, selector, percent / 100, f"mini/{client}_{selector}_{percent}.yaml")

    middle = ("gate", "knn", "domain_classifier", "oracle")
    return (
        Row(client, "none", 0, f"mini/{client}_none.yaml"),
        *(row(selector, 10) for selector in ("uniform", "nds")),
        *(row(selector, 20) for selector in ("uniform", "nds", *middle)),
        *(row(selector, 40) for selector in ("uniform", "nds")),
        Row(client, "full", 1, f"mini/{client}_full.yaml"),
    )


GRIDS = {
    "4": Grid(
        "4",
        "Transfer to instance segmentation with Mask R-CNN on Cityscapes by selecting images from COCO.",
        "COCO",
        _paper_rows("table4", (23_000, 47_000, 59_000), 118_000),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES},
        {"cityscapes": 500},
    ),
    "5": Grid(
        "5",
        "Transfer to instance segmentation with Mask R-CNN on Cityscapes by selecting images from OpenImages.",
        "OpenImages",
        _paper_rows("table5", (118_000, 200_000), 1_743_042),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES},
        {"cityscapes": 500},
    ),
    "mini": Grid(
        "mini",
        "Transfer to 100 images of a client by selecting from the joined photographs; CPU size; classes by mask AP.",
        "source",
        (*_mini_rows("cityscapes"), *_mini_rows("ccp_modanet13")),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES, "ccp_modanet13": CCP},
        {"cityscapes": 200, "ccp_modanet13": 120},
        digits=2,
        from_random=True,
    ),
}


def grid_of(name: str) -> Grid:
    """The grid of a table.

    Raises:
        NDSError: no such table.
    """
    if name not in GRIDS:
        raise unknown_name("table", name, GRIDS)
    return GRIDS[name]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from ``0-2``, ``0,3,5`` or both together.

    Raises:
        NDSError: anything else, or a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise NDSError(f"--seeds: expected numbers such as 0-2 or 0,1,5, got {text!r}.")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise NDSError(f"--seeds: {text!r} names a seed twice.")
    return tuple(seeds)
