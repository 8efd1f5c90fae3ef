"""The grids of the tables: rows of (client, selector, budget), each of them a base config and what it changes; a cell is a row and a seed."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError, unknown_name

CITYSCAPES = ("car", "truck", "rider", "bicycle", "person", "bus", "motorcycle", "train")
CCP = (
    *("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants", "top", "shorts", "skirt"),
    *("headwear", "scarf & tie"),
)
DAWN = ("person", "bicycle", "car", "motorcycle", "bus", "truck")


_Own = tuple[tuple[str, Any], ...]  # keys and values


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
    own: _Own = ()

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
    seeds = ["SEED", "NDS.SEED"]
    if own_experts:
        seeds += ["NDS.PARTITION.SEED", "NDS.EXPERTS.SEED"]
    return [
        *(word for key in seeds for word in (key, str(cell.seed))),
        *("OUTPUT_DIR", str(output / cell.name), "NDS.WORK_DIR", str(output / "nds")),
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
        test_images: of each client.
        digits: decimals of the table.
        from_random: training starts from random weights, not from those of ImageNet.
        own_experts: each seed has a partition and experts of its own.
        kept: the file below docs/ in which a checkout keeps the finished cells; none when empty.
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
    kept: str = ""
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


def _paper_rows(
    base: str, schedules: Mapping[int, tuple[tuple[int, int], int]], full: int
) -> tuple[Row, ...]:
    """Rows of a budget each, with the steps and the length of their pretraining."""
    client = "cityscapes"

    def row(selector: str, budget: int) -> Row:
        steps, length = schedules[budget]
        schedule = (("NDS.PRETRAIN.SOLVER.STEPS", steps), ("NDS.PRETRAIN.SOLVER.MAX_ITER", length))
        return Row(client, selector, budget, f"{selector}_{budget // 1000}k", base, schedule)

    drawn = [row(selector, budget) for budget in schedules for selector in ("uniform", "nds")]
    return (Row(client, "none", 0, "none", base), *drawn, Row(client, "full", full, "full", base))


_MINI = ("uniform", "nds", "gate", "knn", "domain_classifier")


def _mini_rows(client: str, base: str, oracle: _Own, selectors: Sequence[str] = _MINI) -> tuple[Row, ...]:
    def row(selector: str, percent: int, own: _Own = ()) -> Row:
        return Row(client, selector, percent / 100, f"{client}_{selector}_{percent}", base, own)

    return (
        Row(client, "none", 0, f"{client}_none", base),
        *(row(selector, 10) for selector in ("uniform", "nds")),
        *(row(selector, 20) for selector in selectors),
        row("oracle", 20, oracle),
        *(row(selector, 40) for selector in ("uniform", "nds")),
        Row(client, "full", 1, f"{client}_full", base),
    )


_Targets = Mapping[str, tuple[str, str]]  # training and test dataset by the target's name


def _ssl_rows(bases: Mapping[str, str], targets: _Targets) -> tuple[Row, ...]:
    """Rows of self-supervision: no pretraining once for all methods, else a row per method and target.

    Args:
        bases: config of each method.
    """

    def row(method: str, target: str, selector: str, budget: float) -> Row:
        train, test = targets[target]
        own = (("NDS.TARGET.TRAIN", (train,)), ("NDS.TARGET.TEST", (test,)))
        client = "_".join(filter(None, (method, target)))
        name = f"{client}_{selector}" + ("_20" if 0 < budget < 1 else "")
        return Row(client, selector, budget, name, bases[method or next(iter(bases))], own)

    drawn = (("full", 1.0), ("uniform", 0.2), ("nds", 0.2))
    return (
        *(row("", target, "none", 0) for target in targets),
        *(
            row(method, target, selector, budget)
            for selector, budget in drawn
            for method in bases
            for target in targets
        ),
    )


# Pretraining passes 12.2 times over what is drawn, as Detectron2's 1x schedule does over COCO
# (90,000 x 16 / 118,287), with steps at 2/3 and 8/9: 47,000 x 12.2 / 16 = 35,838 iterations.
_TABLE4 = {
    23_000: ((11_700, 15_600), 17_500),
    47_000: ((23_900, 31_800), 35_800),
    59_000: ((30_000, 40_000), 45_000),
}
_TABLE5 = {118_000: ((60_000, 80_000), 90_000), 200_000: ((101_700, 135_600), 152_500)}
# An upper bound: drawn from the driving datasets alone, which were picked by hand.
_DRIVING = (
    *("nds_data_camvid_train", "nds_data_highway_train", "nds_data_carla_train"),
    *("nds_data_urban_cam_train", "nds_data_road_signs_train"),
)
_CITYSCAPES_ORACLE = (("NDS.ORACLE.SOURCES", _DRIVING),)
# Picked by hand: photographs whose largest object is a person (440 images), and others to fill the budget.
# The clothing datasets are no upper bound: see docs/benchmark.md, "Noise and room".
_CCP_ORACLE = (("NDS.ORACLE.CLASSES", ("person", "Person")), ("NDS.ORACLE.REST", 0.001))

_IMAGENET_ROWS = tuple(
    row
    for client, ending, oracle in (
        ("cityscapes", "", _CITYSCAPES_ORACLE),
        ("ccp_modanet13", "-ccp", _CCP_ORACLE),
        ("dawn", "-dawn", _CITYSCAPES_ORACLE),
    )
    for row in _mini_rows(
        client,
        f"mini_imagenet/Base-mini-imagenet{ending}.yaml",
        oracle,
        ("uniform", "nds", "histogram", "gate", "knn", "domain_classifier"),
    )
)

# In the order of the paper's columns.
_SSL_TARGETS = {
    "stanford_dogs": ("stanford_dogs_train", "stanford_dogs_test"),
    "stanford_cars": ("stanford_cars_train", "stanford_cars_test"),
    "oxford_iiit_pets": ("oxford_pets_trainval", "oxford_pets_test"),
    "flowers_102": ("flowers_102_trainval", "flowers_102_test"),
    "cub200_birds": ("cub_200_train", "cub_200_test"),
}
_SSL_MINI = {name: (f"{name}_train", f"{name}_test") for name in ("dogs", "cars", "pets", "flowers", "cub")}
_SSL_BASES = {"moco": "ssl_mini/Base-moco.yaml", "rotnet": "ssl_mini/Base-rotnet.yaml"}


def _ssl_table(number: str, method: str) -> Grid:
    return Grid(
        number,
        f"Top-1 accuracy on five targets after self-supervised pretraining ({'MoCo' if method == 'moco' else 'RotNet'}) on "
        "Downsampled ImageNet.",
        "Downsampled ImageNet",
        _ssl_rows({method: f"table{number}/Base-Table{number}.yaml"}, _SSL_TARGETS),
        (0, 1, 2),
        {method: tuple(_SSL_TARGETS)},
        dict(zip(_SSL_TARGETS, (8_580, 8_041, 3_669, 6_149, 5_794))),
        digits=2,
        from_random=True,
        kind="classifier",
    )


GRIDS = {
    "1": _ssl_table("1", "moco"),
    "2": _ssl_table("2", "rotnet"),
    "4": Grid(
        "4",
        "Transfer to instance segmentation with Mask R-CNN on Cityscapes by selecting images from COCO.",
        "COCO",
        _paper_rows("table4/Base-Table4.yaml", _TABLE4, 118_000),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES},
        {"cityscapes": 500},
    ),
    "5": Grid(
        "5",
        "Transfer to instance segmentation with Mask R-CNN on Cityscapes by selecting images from OpenImages.",
        "OpenImages",
        _paper_rows("table5/Base-Table5.yaml", _TABLE5, 1_743_042),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES},
        {"cityscapes": 500},
    ),
    "mini": Grid(
        "mini",
        "Transfer to 100 images of a client by selecting from the joined photographs; CPU size; classes by mask AP.",
        "source",
        (
            *_mini_rows("cityscapes", "mini/Base-mini.yaml", _CITYSCAPES_ORACLE),
            *_mini_rows("ccp_modanet13", "mini/Base-mini-ccp.yaml", _CCP_ORACLE),
        ),
        (0, 1, 2),
        {"cityscapes": CITYSCAPES, "ccp_modanet13": CCP},
        {"cityscapes": 200, "ccp_modanet13": 120},
        digits=2,
        from_random=True,
        kept="benchmark.json",
    ),
    "mini_imagenet": Grid(
        "mini_imagenet",
        "Transfer to 100 images of a client by selecting from the joined photographs; CPU size, from ImageNet weights; "
        "classes by mask AP.",
        "source",
        _IMAGENET_ROWS,
        (0, 1, 2),
        {"cityscapes": CITYSCAPES, "ccp_modanet13": CCP, "dawn": DAWN},
        {"cityscapes": 200, "ccp_modanet13": 120, "dawn": 100},
        digits=2,
        own_experts=True,
        kept="benchmark_imagenet.json",
    ),
    "ssl_mini": Grid(
        "ssl_mini",
        "Top-1 accuracy on five targets after self-supervised pretraining on 28,000 images of 32 pixels; CPU size.",
        "source",
        _ssl_rows(_SSL_BASES, _SSL_MINI),
        (0, 1, 2),
        {method: tuple(_SSL_MINI) for method in _SSL_BASES},
        {"dogs": 125, "cars": 600, "pets": 185, "flowers": 288, "cub": 480},
        digits=2,
        from_random=True,
        own_experts=False,
        kept="ssl_mini.json",
        kind="classifier",
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


def find_row(name: str, table: str | None = None) -> Row:
    """The row of a name, in one table or in any.

    Raises:
        NDSError: no such row, or rows of several tables.
    """
    grids = [grid_of(table)] if table else list(GRIDS.values())
    found = {grid.name: row for grid in grids for row in grid.rows if row.name == name}
    if not found:
        raise unknown_name(
            "row of a table",
            name,
            {row.name for grid in grids for row in grid.rows},
            "nds tables --table 1, 4, mini or another --dry-run",
        )
    if len(found) > 1:
        raise NDSError(f"--show {name}: tables {' and '.join(found)} have such a row: say which by --table.")
    return next(iter(found.values()))


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
