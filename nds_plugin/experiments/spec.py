"""The grids of the tables: rows of (client, selector, budget), each of them a base config and what it changes; a cell is a row and a seed."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

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


_FEW = 25  # images of a client that has few
_MINI: Mapping[str, Own] = dict.fromkeys(("uniform", "nds", "gate", "knn", "domain_classifier"), ())


def _mini_row(client: str, base: str, selector: str, budget: float = 0, own: Own = ()) -> Row:
    name = f"{client}_{selector}" + (f"_{round(100 * budget)}" if 0 < budget < 1 else "")
    return Row(client, selector, budget, name, base, own)


def _mini_rows(client: str, base: str, oracle: Own, selectors: Mapping[str, Own] = _MINI) -> tuple[Row, ...]:
    """The rows of a client; ``selectors`` are those of 20 %, and what a row of each sets itself."""
    row = functools.partial(_mini_row, client, base)
    return (
        row("none"),
        *(row(selector, 0.1) for selector in ("uniform", "nds")),
        *(row(selector, 0.2, own) for selector, own in selectors.items()),
        row("oracle", 0.2, oracle),
        *(row(selector, 0.4) for selector in ("uniform", "nds")),
        row("full", 1),
    )


def _few_rows(client: str, base: str, oracle: Own) -> tuple[Row, ...]:
    """The rows of a client that has only so many images, to be scored and fine-tuned on."""
    row = functools.partial(_mini_row, f"{client}_{_FEW}", base)
    images = (("NDS.TARGET.NUM_IMAGES", _FEW),)
    return (
        row("none", own=images),
        *(row(selector, 0.2, images) for selector in ("uniform", "nds")),
        row("oracle", 0.2, (*images, *oracle)),
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

# Fifteen of the twenty sources: the experts of Scalable NDS know the other five by their descriptions alone, as those of
# benchmarks/new_sources.py do.
_KNOWN = (
    *("nds_data_coco_mini_train", "nds_data_openimages_train", "nds_data_coco_person_train"),
    *("nds_data_highway_train", "nds_data_urban_cam_train", "nds_data_road_signs_train"),
    *("nds_data_indoor_home_train", "nds_data_amenity_train", "nds_data_facades_train"),
    *("nds_data_drone_vehicles_train", "nds_data_animals_train", "nds_data_pets_det_train"),
    *("nds_data_playing_cards_train", "nds_data_bccd_train", "nds_data_foosball_train"),
)
_IMAGENET: Mapping[str, Own] = {
    **dict.fromkeys(("uniform", "nds", "snds", "histogram", "gate", "knn", "domain_classifier"), ()),
    "snds": (("NDS.SNDS.DATASETS", _KNOWN),),
}
_IMAGENET_CLIENTS = {  # the classes of each, how many test images, the ending of its config, its oracle
    "cityscapes": (CITYSCAPES, 200, "", _CITYSCAPES_ORACLE),
    "ccp_modanet13": (CCP, 120, "-ccp", _CCP_ORACLE),
    "dawn": (DAWN, 100, "-dawn", _CITYSCAPES_ORACLE),
}
_IMAGENET_ROWS = tuple(
    row
    for client, (_, _, ending, oracle) in _IMAGENET_CLIENTS.items()
    for base in (f"mini_imagenet/Base-mini-imagenet{ending}.yaml",)
    for row in (*_mini_rows(client, base, oracle, _IMAGENET), *_few_rows(client, base, oracle))
)
_IMAGENET_TABLES = [(client, name) for client in _IMAGENET_CLIENTS for name in (client, f"{client}_{_FEW}")]

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
        "Transfer to 100 images of a client by selecting from the joined photographs; CPU size.",
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
        core_images=20,  # thin ResNet-18 in bf16
    ),
    "mini_imagenet": Grid(
        "mini_imagenet",
        f"Transfer to 100 images of a client ({_FEW} where its name says so) by selecting from the joined photographs; "
        "CPU size, from ImageNet weights.",
        "source",
        _IMAGENET_ROWS,
        (0, 1, 2),
        {name: _IMAGENET_CLIENTS[client][0] for client, name in _IMAGENET_TABLES},
        {name: _IMAGENET_CLIENTS[client][1] for client, name in _IMAGENET_TABLES},
        digits=2,
        own_experts=True,
        core_images=10,  # EfficientNet-Lite0 in fp32
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
            f"nds tables --table {table or '4 (or another)'} --dry-run",
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
