"""The nodes of ``cfg.NDS`` that single selectors and object crops read."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from nds_plugin.selection.selectors.domain_classifier import DomainClassifier
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.source.objects import ObjectConfig


def add_selector_nodes(nds: CN) -> None:
    """Add the defaults to ``cfg.NDS``."""
    objects = ObjectConfig()
    nds.OBJECTS = CN()
    nds.OBJECTS.PER_IMAGE = objects.per_image  # the largest ones
    nds.OBJECTS.MIN_SIDE = objects.min_side  # pixels; an image's largest object always counts
    nds.OBJECTS.CONTEXT = objects.context  # side of the crop over the box's longer side
    nds.OBJECTS.POOL = objects.pool  # or mean: from objects' probabilities to their image's
    # gate: draw by z itself (plain) or through softmax(z / T).
    nds.GATE = CN()
    nds.GATE.DRAW = "plain"
    nds.GATE.L2 = GateConfig().l2
    # knn: mean similarity to so many of the target's images, the most similar ones; 0: to all.
    nds.KNN = CN()
    nds.KNN.NEIGHBOURS = NearestNeighbours().neighbours
    nds.DOMAIN_CLASSIFIER = CN()
    nds.DOMAIN_CLASSIFIER.L2 = DomainClassifier().l2
    nds.DOMAIN_CLASSIFIER.FOLDS = DomainClassifier().folds
    # oracle: uniform over these datasets of the source and images of these main classes. REST is
    # the probability of all other images together: 0.001 fills a budget beyond the named images.
    nds.ORACLE = CN()
    nds.ORACLE.SOURCES = ()
    nds.ORACLE.CLASSES = ()
    nds.ORACLE.REST = 0.0
