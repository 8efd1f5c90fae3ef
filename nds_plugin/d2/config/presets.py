"""The named settings of ``NDS.PRESET`` laid into a config."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from nds_plugin.errors import unknown_name
from nds_plugin.pipeline.presets import PRESETS


def apply_preset(cfg: CN, name: str) -> None:
    """Set the values of a preset; an empty name sets none.

    Raises:
        NDSError: an unknown name.
    """
    if not name:
        return
    if name not in PRESETS:
        raise unknown_name("NDS.PRESET", name, PRESETS)
    cfg.merge_from_list([item for pair in PRESETS[name].items() for item in pair])
