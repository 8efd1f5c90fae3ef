"""Uniform sampling, the baseline, and the whole source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nds_plugin.selection.selectors.base import SELECTORS, ClusterSelector, Floats, Ints


@SELECTORS.register
@dataclass(frozen=True)
class Uniform(ClusterSelector):
    """Every image alike, whatever its cluster."""

    name: ClassVar[str] = "uniform"
    label: ClassVar[str] = "Uniform Sampling"
    colour: ClassVar[str] = "#2f6f9f"
    what: ClassVar[str] = "uniform"

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """w_k in proportion to |S_k|."""
        del z
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)


@SELECTORS.register
@dataclass(frozen=True)
class Full(Uniform):
    """Every image of the source."""

    name: ClassVar[str] = "full"
    label: ClassVar[str] = "Full source"
    whole: ClassVar[bool] = True
    what: ClassVar[str] = "full"
