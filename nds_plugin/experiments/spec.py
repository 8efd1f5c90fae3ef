"""The grids of the tables: rows of (client, selector, budget), each of them a base config and what it changes; a cell is a row and a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.experiments.rows import Grid, Own, Row
from nds_plugin.experiments.ssl_grids import SSL_MINI, ssl_table

CITYSCAPES = ("car", "truck", "rider", "bicycle", "person", "bus", "motorcycle", "train")
CCP = (
    *("bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants", "top", "shorts", "skirt"),
    *("headwear", "scarf & tie"),
)
DAWN = ("person", "bicycle", "car", "motorcycle", "bus", "truck")


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


def _mini_rows(client: str, base: str, oracle: Own, selectors: Sequence[str] = _MINI) -> tuple[Row, ...]:
    def row(selector: str, percent: int, own: Own = ()) -> Row:
        return Row(client, selector, percent / 100, f"{client}_{selector}_{percent}", base, own)

    return (
        Row(client, "none", 0, f"{client}_none", base),
        *(row(selector, 10) for selector in ("uniform", "nds")),
        *(row(selector, 20) for selector in selectors),
        row("oracle", 20, oracle),
        *(row(selector, 40) for selector in ("uniform", "nds")),
        Row(client, "full", 1, f"{client}_full", base),
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

GRIDS = {
    "1": ssl_table("1", "moco"),
    "2": ssl_table("2", "rotnet"),
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
    "ssl_mini": SSL_MINI,
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
