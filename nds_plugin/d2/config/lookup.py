"""Where the configs for Detectron2 lie, and what the name of one stands for."""

from __future__ import annotations

from nds_plugin.pipeline.config_lookup import Configs

CONFIGS = Configs("detectron2", ".yaml")


def find_config(name: str) -> tuple[str, list[str]]:
    """The path of a config, and the overrides that its name stands for beside it; see :class:`Configs`."""
    path, selector = CONFIGS.find(name)
    return path, [] if selector is None else ["NDS.SELECTOR", selector]
