"""The configs of a grid's cells: overrides by seed and folder, the hash of a row, and what a run will do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from nds_plugin.d2.config.nodes import add_nds_config, load_config, merged
from nds_plugin.d2.train.evaluation import plain
from nds_plugin.experiments.estimate import Stage, Work
from nds_plugin.experiments.spec import Cell, Row
from nds_plugin.files.artifacts import content_hash

_TARGET_IMAGES = 2975  # Cityscapes' training images, where the config takes all
# What a seed, a folder or a machine decides, not the row.
_NOT_OF_THE_ROW = (
    *("SEED", "OUTPUT_DIR", "VERSION", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE", "SOLVER.CHECKPOINT_PERIOD"),
    *("VIS_PERIOD", "CUDNN_BENCHMARK", "TEST.EVAL_PERIOD", "NDS.SEED", "NDS.WORK_DIR", "NDS.LOADER"),
    *("NDS.EVALUATE_PRETRAINED", "NDS.PRESET"),
)
# All that selectors without networks read of cfg.NDS: the experts' settings do not make their runs other ones.
_PLAIN_KEYS = ("SELECTOR", "TARGET", "OPTIMIZER", "LABEL_SPACES")
_DRAWN_KEYS = (*_PLAIN_KEYS, "MODE", "BUDGET", "SOURCE", "PRETRAIN", "TRANSFER")
_KEYS_OF = {
    "none": _PLAIN_KEYS,
    "uniform": _DRAWN_KEYS,
    "full": _DRAWN_KEYS,
    "oracle": (*_DRAWN_KEYS, "ORACLE"),
}
# Nodes that a single selector reads.
_OWN_NODES = {"gate": "GATE", "knn": "KNN", "domain_classifier": "DOMAIN_CLASSIFIER", "oracle": "ORACLE"}


def cell_overrides(cell: Cell, output: Path, extra: Sequence[str] = ()) -> list[str]:
    """``KEY VALUE`` pairs that make a row's config that of a cell under the grid's folder ``output``."""
    return [
        *("SEED", str(cell.seed), "NDS.SEED", str(cell.seed)),
        *("OUTPUT_DIR", str(output / cell.name), "NDS.WORK_DIR", str(output / "nds")),
        *extra,
    ]


def row_config(row: Row, extra: Sequence[str] = ()) -> CN:
    """The config of a row, with overrides that hold for the whole grid.

    Raises:
        NDSError: see :func:`nds_plugin.d2.config.nodes.load_config`.
    """
    return load_config(row.config, list(extra))


def config_hash(cfg: CN) -> str:
    """Hash of what makes a row what it is, see :func:`deciding_settings`."""
    return content_hash(deciding_settings(cfg))[:16]


def deciding_settings(cfg: CN) -> dict[str, Any]:
    """The settings that a row's results depend on, but for seeds, folders and the machine.

    Of Detectron2's keys those that differ from its defaults; of ``cfg.NDS`` all that the row's
    selector reads, so that another default makes another row.
    """
    selector = cfg.NDS.SELECTOR
    only = _KEYS_OF.get(selector)
    foreign = [node for owner, node in _OWN_NODES.items() if owner != selector]
    defaults = _defaults()

    def decides(name: str, value: Any) -> bool:
        if any(name == n or name.startswith(f"{n}.") for n in _NOT_OF_THE_ROW):
            return False
        if not name.startswith("NDS."):
            return bool(defaults.get(name) != value)
        node = name.split(".")[1]
        return node not in foreign if only is None else node in only

    return {name: value for name, value in _flat(cfg).items() if decides(name, value)}


def concerns_every_row(name: str) -> bool:
    """Whether a setting is one that rows without networks, such as uniform sampling, depend on, too."""
    return not name.startswith("NDS.") or name.split(".")[1] in _DRAWN_KEYS


def changed_settings(cfg: CN, usual: CN) -> dict[str, Any]:
    """The deciding settings of ``cfg`` that are others than in ``usual``; None where it has no such setting."""
    ours, theirs = deciding_settings(cfg), deciding_settings(usual)
    return {
        name: ours.get(name)
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


@functools.lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_nds_config(cfg)
    return _flat(cfg)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Keys with dots and their plain values."""
    if not isinstance(node, dict):
        return {prefix[:-1]: plain(node)}
    pairs: dict[str, Any] = {}
    for key, value in node.items():
        pairs |= _flat(value, f"{prefix}{key}.")
    return pairs


def planned_work(cfg: CN, test_images: int, parameters: int) -> Work:
    """What one run of a row does, for the estimate of its cost.

    Args:
        test_images: of the target's test datasets.
        parameters: of the detector, see :func:`count_parameters`.
    """
    nds = cfg.NDS
    pretrains = nds.SELECTOR != "none"
    experts = nds.PARTITION.NUM_CLUSTERS if nds.SELECTOR == "nds" else 0
    networks = experts + int(experts > 0 and nds.EXPERTS.SHARED_STEPS > 0)  # that are scored
    looks = nds.SELECTOR not in ("none", "uniform", "full", "oracle")  # at features of a shared network
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


def _stage(cfg: CN) -> Stage:
    solver = cfg.SOLVER
    return Stage(solver.MAX_ITER, solver.IMS_PER_BATCH, (solver.MAX_ITER - 1) // solver.CHECKPOINT_PERIOD + 1)


def count_parameters(cfg: CN) -> int:
    """Numbers in the detector of fine-tuning."""
    small = cfg.clone()
    small.defrost()
    small.MODEL.DEVICE = "cpu"
    return sum(p.numel() for p in build_model(small).parameters())
