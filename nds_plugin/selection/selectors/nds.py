"""NDS: clusters whose experts do well on the client's images are drawn more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nds_plugin.selection.selectors.base import SELECTORS, ClusterSelector, Floats, Ints, Need, Softmax
from nds_plugin.selection.weights import available_weights


@SELECTORS.register
@dataclass(frozen=True)
class NDS(ClusterSelector, Softmax):
    """w = softmax(z' / T), z of the experts (the paper's method)."""

    name: ClassVar[str] = "nds"
    label: ClassVar[str] = "NDS"
    colour: ClassVar[str] = "#d98a2b"
    needs: ClassVar[Need] = Need.CLUSTERS | Need.EXPERTS
    what: ClassVar[str] = "nds"

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """See :class:`~nds_plugin.selection.selectors.base.ClusterSelector`."""
        return available_weights(self.softmax(np.asarray(z)), sizes)
