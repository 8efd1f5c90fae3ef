"""The configs of a grid's rows and cells: overrides, as a file, and what a run will do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nds_plugin.d2.config.lookup import find_config
from nds_plugin.d2.config.nodes import load_config, merged
from nds_plugin.experiments.estimate import Stage, Work
from nds_plugin.experiments.spec import Cell, Row
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.selection.selectors import SELECTORS, Need

_TARGET_IMAGES = 2975  # Cityscapes' training images, where the config takes all


def cell_overrides(cell: Cell, output: Path, extra: Sequence[str] = ()) -> list[str]:
    """``KEY VALUE`` pairs that make a row's config that of a cell under the grid's folder ``output``."""
    return [
        *("SEED", str(cell.seed), "NDS.SEED", str(cell.seed)),
        *("OUTPUT_DIR", str(output / cell.name), "NDS.WORK_DIR", str(output / "nds")),
        *extra,
    ]


def row_config(row: Row, extra: Sequence[str] = ()) -> Any:
    """The config of a row, with overrides that hold for the whole grid.

    Raises:
        NDSError: see :func:`nds_plugin.d2.config.nodes.load_config`.
    """
    return load_config(row.base, [*row.overrides, *extra])


def row_yaml(row: Row) -> str:
    """The config file of a row, to be kept anywhere: its base is named by the full path."""
    document: dict[str, Any] = {"_BASE_": str(Path(find_config(row.base)[0]).resolve())}
    for key, value in row.settings.items():
        *parents, leaf = key.split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = str(value) if isinstance(value, tuple) else value  # as yacs writes tuples
    return yaml.safe_dump(document, sort_keys=False)


def planned_work(cfg: Any, test_images: int, parameters: int) -> Work:
    """What one run of a row does, for the estimate of its cost.

    Args:
        test_images: of the target's test datasets.
        parameters: of the detector, see :func:`nds_plugin.d2.model.size.count_parameters`.
    """
    nds = cfg.NDS
    pretrains = nds.SELECTOR != NO_PRETRAINING
    needs = SELECTORS[nds.SELECTOR].needs if pretrains else Need.NOTHING
    experts = nds.PARTITION.NUM_CLUSTERS if Need.EXPERTS in needs else 0
    networks = experts + int(experts > 0 and nds.EXPERTS.SHARED_STEPS > 0)  # that are scored
    looks = bool(needs)  # at features of a shared network
    steps = nds.EXPERTS.SHARED_STEPS * looks + experts * nds.EXPERTS.STEPS
    target = nds.SCORING.MAX_IMAGES or nds.TARGET.NUM_IMAGES or _TARGET_IMAGES
    return Work(
        pretrain=_stage(merged(cfg, nds.PRETRAIN)) if pretrains else None,
        finetune=_stage(cfg),
        test_images=test_images * (2 if pretrains and nds.EVALUATE_PRETRAINED else 1),
        expert_crops=steps * nds.EXPERTS.BATCH_SIZE,
        scored=target * (4 * networks or int(looks)),
        parameters=parameters,
        states=2 if nds.OPTIMIZER == "SGD" else 3,
        on_gpu=cfg.MODEL.DEVICE != "cpu",
    )


def _stage(cfg: Any) -> Stage:
    solver = cfg.SOLVER
    return Stage(solver.MAX_ITER, solver.IMS_PER_BATCH, (solver.MAX_ITER - 1) // solver.CHECKPOINT_PERIOD + 1)
