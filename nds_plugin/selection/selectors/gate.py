"""The gate: one network and a classifier of clusters in place of K experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nds_plugin.selection.selectors.base import SELECTORS, ClusterSelector, Floats, Ints, Need, Softmax
from nds_plugin.selection.weights import available_weights
from nds_plugin.settings import Settings, setting

DRAWS = ("plain", "softmax")


@dataclass(frozen=True)
class GateConfig(Settings):
    """How the classifier of clusters is fitted."""

    what: ClassVar[str] = "gate"

    l2: float = setting(0.01, "strength of the L2 penalty of the classifier", above=0)


@SELECTORS.register
@dataclass(frozen=True)
class GateSelector(ClusterSelector, Softmax):
    """w = z, the mean posterior of each cluster over the client's images, or softmax(z' / T)."""

    gate_draw: str = setting(
        "plain", "draw by z itself (plain) or by softmax of z / T", choices=DRAWS, config="DRAW"
    )

    name: ClassVar[str] = "gate"
    label: ClassVar[str] = "Gate"
    colour: ClassVar[str] = "#3d8b5f"
    needs: ClassVar[Need] = Need.CLUSTERS | Need.GATE | Need.FEATURES
    also: ClassVar[tuple[type[Settings], ...]] = (GateConfig,)
    what: ClassVar[str] = "gate"

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """See :class:`~nds_plugin.selection.selectors.base.ClusterSelector`."""
        scores = np.asarray(z, dtype=np.float64)
        return available_weights(scores if self.gate_draw == "plain" else self.softmax(scores), sizes)
