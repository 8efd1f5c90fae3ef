"""Named settings of the method, ``NDS.PRESET``."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode as CN

from nds_plugin.errors import unknown_name

# paper: rotation experts of k-means clusters of whole images, z their accuracy, w by softmax after
# min-max. K and the scaling are what we take for the paper's (docs/method.md, last section).
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "NDS.UNIT": "image",
        "NDS.PARTITION.METHOD": "kmeans",
        "NDS.PARTITION.NUM_CLUSTERS": 50,
        "NDS.EXPERTS.TASK": "rotation",
        "NDS.SCORING.METRIC": "accuracy",
        "NDS.NORMALISATION": "minmax",
        "NDS.TEMPERATURE": 0.1,
    },
}


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
