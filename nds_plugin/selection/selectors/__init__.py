"""Selectors: a file each, known by name in ``SELECTORS``.

An outside package adds its own by ``@SELECTORS.register`` and names the module under the entry points
``nds_plugin.selectors`` (docs/selectors.md).
"""

from nds_plugin.selection.selectors import (  # noqa: F401  (register)
    domain_classifier,
    gate,
    histogram,
    knn,
    nds,
    oracle,
    snds,
    uniform,
)
from nds_plugin.selection.selectors.base import SELECTORS, ClusterSelector, ImageSelector, Need, Selector

__all__ = ["SELECTORS", "ClusterSelector", "ImageSelector", "Need", "Selector"]

SELECTORS.load_packages()
