"""Named settings of the method, ``NDS.PRESET``."""

from __future__ import annotations

from typing import Any

from nds_plugin.errors import unknown_name

# paper: rotation networks of k-means clusters of whole images, z their accuracy, w by softmax after
# min-max. K and the scaling are what we take for the paper's (docs/method.md, last section). The defaults are head
# experts by log-likelihood, which drew more of most clients' own domain (docs/selection_study.md).
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "NDS.UNIT": "image",
        "NDS.PARTITION.METHOD": "kmeans",
        "NDS.PARTITION.NUM_CLUSTERS": 50,
        "NDS.PARTITION.NETWORK": "",
        "NDS.PARTITION.WEIGHTS": "",
        "NDS.EXPERTS.KIND": "network",
        "NDS.EXPERTS.NETWORK": "",
        "NDS.EXPERTS.WEIGHTS": "",
        "NDS.EXPERTS.TASK": "rotation",
        "NDS.SCORING.METRIC": "accuracy",
        "NDS.NORMALISATION": "minmax",
        "NDS.TEMPERATURE": 0.1,
    },
}


def preset(name: str, key: str = "NDS.PRESET") -> dict[str, Any]:
    """The keys and values of a preset; none for an empty name.

    Args:
        name: of the preset.
        key: that names it, for messages.

    Raises:
        NDSError: an unknown name.
    """
    if not name:
        return {}
    if name not in PRESETS:
        raise unknown_name(key, name, PRESETS)
    return PRESETS[name]
