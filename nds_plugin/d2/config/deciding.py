"""What decides a run: the settings of a config that its results depend on, and their hash."""

from __future__ import annotations

import functools
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from nds_plugin.d2.config.nodes import add_nds_config, flat
from nds_plugin.experts.manifest import NETWORK
from nds_plugin.experts.settings import EXPERT_CONFIGS
from nds_plugin.files.artifacts import content_hash, plain
from nds_plugin.pipeline.config_nodes import config_keys
from nds_plugin.selection.selectors import SELECTORS

# What a seed, a folder or a machine decides, not the row.
_NOT_OF_THE_ROW = (
    *("SEED", "OUTPUT_DIR", "VERSION", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE", "SOLVER.CHECKPOINT_PERIOD"),
    *("VIS_PERIOD", "CUDNN_BENCHMARK", "TEST.EVAL_PERIOD", "NDS.SEED", "NDS.WORK_DIR", "NDS.LOADER"),
    *("NDS.EVALUATE_PRETRAINED", "NDS.PRESET", "NDS.ENGINE", "NDS.RAY", "NDS.SHARD_SIZE"),
    "NDS.PARTITION.KEEP_FEATURES",
)
# What training itself reads of cfg.NDS, but for its seed.
TRAINED = ("OPTIMIZER", "LABEL_SPACES")
# All that selectors without networks read of cfg.NDS: the experts' settings do not make their runs other ones.
_PLAIN_KEYS = ("SELECTOR", "TARGET", *TRAINED)
_DRAWN_KEYS = (*_PLAIN_KEYS, "MODE", "BUDGET", "SOURCE", "PRETRAIN", "TRANSFER")
# Settings that came after cells had been kept, and what all of those were run with: it decides nothing, or
# finished cells would be run again. Another default would not change this value.
_CAME_LATER = {
    "NDS.EXPERTS.KIND": NETWORK,
    "NDS.EXPERTS.PRETRAINED": "",
    "NDS.PARTITION.NETWORK": "",
    "NDS.PARTITION.SAMPLE_PER_CLUSTER": 2000,  # no kept cell has a source larger than the sample
    "NDS.PARTITION.SAMPLE_LEAST": 200_000,
}


def config_hash(cfg: CN) -> str:
    """Hash of what makes a row what it is, see :func:`deciding_settings`."""
    return content_hash(deciding_settings(cfg))[:16]


def deciding_settings(cfg: CN) -> dict[str, Any]:
    """The settings that make a row what it is: all that its results depend on but seeds, folders and how it is run.

    Not among them, though results may depend on them: the number of processes, how many unreadable images are
    borne (``NDS.LOADER``), the device. Of Detectron2's keys those that differ from its defaults; of ``cfg.NDS`` all that the row's
    selector reads, so that another default makes another row.
    """
    selector = cfg.NDS.SELECTOR
    only = _keys_of(selector)
    foreign = [name.upper() for name in SELECTORS if name != selector]
    unread = _of_other_experts(cfg.NDS.EXPERTS.KIND)
    defaults = _defaults()

    def decides(name: str, value: Any) -> bool:
        if any(name == n or name.startswith(f"{n}.") for n in _NOT_OF_THE_ROW):
            return False
        if name in unread or (name in _CAME_LATER and _CAME_LATER[name] == value):
            return False
        if not name.startswith("NDS."):
            return bool(defaults.get(name) != value)
        node = name.split(".")[1]
        return node not in foreign if only is None else node in only

    return {name: value for name, value in _plain_values(cfg).items() if decides(name, value)}


def _of_other_experts(kind: str) -> set[str]:
    """The keys that only experts of other kinds read."""
    keys = {
        name: {f"NDS.{key}" for key, _ in config_keys("EXPERTS", cls)} for name, cls in EXPERT_CONFIGS.items()
    }
    others = {key for name in keys.keys() - {kind} for key in keys[name]}
    return others - keys.get(kind, others)


def concerns_every_row(name: str) -> bool:
    """Whether a setting is one that rows without networks, such as uniform sampling, depend on, too."""
    return not name.startswith("NDS.") or name.split(".")[1] in _DRAWN_KEYS


def _keys_of(selector: str) -> tuple[str, ...] | None:
    """The nodes of ``cfg.NDS`` that a run without networks depends on; None where one depends on them all."""
    if selector not in SELECTORS:
        return _PLAIN_KEYS
    return None if SELECTORS[selector].needs else (*_DRAWN_KEYS, selector.upper())


@functools.lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_nds_config(cfg)
    return _plain_values(cfg)


def _plain_values(cfg: CN) -> dict[str, Any]:
    return {name: plain(value) for name, value in flat(cfg).items()}
