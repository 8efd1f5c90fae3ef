"""The named settings of ``NDS.PRESET`` laid into a config."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from nds_plugin.pipeline.presets import preset


def apply_preset(cfg: CN, name: str) -> None:
    """Set the values of a preset; an empty name sets none.

    Raises:
        NDSError: an unknown name.
    """
    cfg.merge_from_list([item for pair in preset(name).items() for item in pair])
