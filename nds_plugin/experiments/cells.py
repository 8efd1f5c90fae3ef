"""The configs of rows that train a detector, and what a run of one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nds_plugin.d2.config.nodes import load_config, merged
from nds_plugin.experiments.estimate import Stage, Work
from nds_plugin.experiments.rows import Row
from nds_plugin.experts.manifest import HEAD
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.selection.selectors import SELECTORS, Need

_TARGET_IMAGES = 2975  # Cityscapes' training images, where the config takes all


def row_config(row: Row, extra: Sequence[str] = ()) -> Any:
    """The config of a row, with overrides that hold for the whole grid.

    Raises:
        NDSError: see :func:`nds_plugin.d2.config.nodes.load_config`.
    """
    return load_config(row.base, [*row.overrides, *extra])


def planned_work(cfg: Any, test_images: int, parameters: int) -> Work:
    """What one run of a row does, for the estimate of its cost.

    Args:
        test_images: of the target's test datasets.
        parameters: of the detector, see :func:`nds_plugin.d2.model.size.count_parameters`.
    """
    nds = cfg.NDS
    pretrains = nds.SELECTOR != NO_PRETRAINING
    needs = SELECTORS[nds.SELECTOR].needs if pretrains else Need.NOTHING
    heads = nds.EXPERTS.KIND == HEAD  # on one frozen network: no step of training
    experts = nds.PARTITION.NUM_CLUSTERS if Need.EXPERTS in needs else 0
    networks = int(experts > 0) if heads else experts + int(experts > 0 and nds.EXPERTS.SHARED_STEPS > 0)
    looks = bool(needs)  # at features of a shared network
    steps = 0 if heads else nds.EXPERTS.SHARED_STEPS * looks + experts * nds.EXPERTS.STEPS
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
