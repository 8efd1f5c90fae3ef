"""From the name of a config to all that a job is told."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from nds_plugin.errors import NDSError
from nds_plugin.mm.config.nds_part import nds_part
from nds_plugin.mm.config.shape import check_parts, check_shape
from nds_plugin.mm.operators import require_mmdet, use_torchvision_operators
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING, Configs, default_output
from nds_plugin.pipeline.presets import preset
from nds_plugin.pipeline.settings import PipelineSettings
from nds_plugin.pipeline.settings_from_cfg import pipeline_settings
from nds_plugin.report.run_files import WORK
from nds_plugin.selection.selectors.uniform import Full

CONFIGS = Configs("mmdetection", ".py")


@dataclass(frozen=True)
class JobConfig:
    """What a job is told.

    Attributes:
        cfg: MMEngine's config, with which the target is fine-tuned on; without its part ``nds``.
        nds: that part, with all defaults; its keys in capitals, as those of Detectron2's ``cfg.NDS``.
        text: the whole config, as it was given.
        work_dir: of the run.
    """

    cfg: Config
    nds: ConfigDict
    text: str
    work_dir: Path

    @property
    def artefacts(self) -> Path:
        """The folder of index, partition, experts, scores and selections."""
        return Path(self.nds.WORK_DIR or self.work_dir / WORK)

    @property
    def workers(self) -> int:
        """Processes that load images."""
        return int(self.cfg.train_dataloader.get("num_workers", 0))

    def settings(self, targets: tuple[str, ...]) -> PipelineSettings:
        """The settings of the steps; ``targets`` are the datasets of the client's images.

        Raises:
            NDSError: names or numbers that are out of range.
        """
        loader = ConfigDict(NUM_WORKERS=self.workers, FILTER_EMPTY_ANNOTATIONS=True)
        return pipeline_settings(ConfigDict(NDS=self.nds, DATALOADER=loader), targets)


def load_config(name: str, options: Mapping[str, Any] | None = None, work_dir: str = "") -> JobConfig:
    """A config of one's own, or one of configs/mmdetection/, with changes.

    Args:
        name: of the file; ``uniform_cityscapes.py`` is ``nds_cityscapes.py`` with ``nds.selector=uniform``.
        options: further keys and values, as MMDetection's ``--cfg-options``.
        work_dir: of the run; by default the config's own, else ``output/<config>_mm/<selector>``.

    Raises:
        NDSError: MMDetection or the config are missing, the config fails, or its part nds is not one.
    """
    use_torchvision_operators()
    require_mmdet()
    path, selector = CONFIGS.find(name)
    where = f"config {path}{' with --cfg-options' if options else ''}"
    try:
        cfg = Config.fromfile(path)
        if selector is not None:
            cfg.merge_from_dict({"nds.selector": selector})
        tops = [str(option).partition(".")[0] for option in options or {}]
        check_parts(cfg, tops, f"part of {where}", ("nds", "custom_imports"))
        # A preset of the options lies over the file and under the other options.
        named = preset((options or {}).get("nds.preset", ""), "nds.preset")
        cfg.merge_from_dict({key.lower(): value for key, value in named.items()})
        cfg.merge_from_dict(dict(options or {}))
    except NDSError:
        raise
    except Exception as error:  # a config is Python, which may fail in any way
        reason = " ".join(str(error).split())
        raise NDSError(f"{where}: {type(error).__name__}: {reason[:300]}") from error
    if cfg.get("nds") is None:
        raise NDSError(
            f"{where} has no part nds = dict(selector=..., source=dict(datasets=[...]), target=dict(train=[...], "
            "test=[...])), so that there is nothing to select for: start from one of configs/mmdetection/."
        )
    text = cfg.pretty_text
    nds = nds_part(cfg.pop("nds"), where)
    check_shape(cfg, where)
    check_parts(cfg, nds.PRETRAIN, f"key of nds.pretrain of {where}")
    check_parts(cfg, nds.FULL.PRETRAIN, f"key of nds.full.pretrain of {where}")
    if Full.name == nds.SELECTOR:
        nds.PRETRAIN = merged(Config(copy.deepcopy(nds.PRETRAIN)), nds.FULL.PRETRAIN, where)._cfg_dict
    if nds.SELECTOR != NO_PRETRAINING:
        check_shape(merged(cfg, nds.PRETRAIN, where), f"{where}, nds.pretrain")
    found = Path(work_dir or cfg.get("work_dir") or default_output(path, nds.SELECTOR, "_mm"))
    return JobConfig(cfg, nds, text, found)


def merged(cfg: Config, changes: Mapping[str, Any], where: str = "nds.pretrain") -> Config:
    """A copy of a config with keys laid over it, as a config that is based on it would; a dict takes the place of None."""
    found = copy.deepcopy(cfg)
    try:
        found.merge_from_dict(_over_none(copy.deepcopy(dict(changes)), cfg))
    except Exception as error:
        raise NDSError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    return found


def _over_none(changes: dict[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, with MMEngine's mark of a replacement on dicts where the config has None."""
    for key, value in changes.items():
        if not isinstance(value, dict) or key not in cfg:
            continue
        if cfg[key] is None:
            value["_delete_"] = True
        elif isinstance(cfg[key], Mapping):
            _over_none(value, cfg[key])
    return changes
