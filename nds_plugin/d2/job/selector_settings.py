"""From ``cfg.NDS`` to the settings of each step of the selecting half, and their checks."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode as CN

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.experts.settings import ExpertConfig, ScoringConfig
from nds_plugin.selection.config import CLUSTER_SELECTORS, SEES_TARGET, SelectionConfig
from nds_plugin.selection.drawing import check_budget
from nds_plugin.selection.selectors.base import ImageSelector
from nds_plugin.selection.selectors.domain_classifier import DomainClassifier
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.selection.selectors.oracle import Oracle
from nds_plugin.selection.selectors.target import TargetConfig
from nds_plugin.source.objects import UNITS, ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig

OBJECT = "object"


def by_objects(cfg: CN) -> bool:
    """Whether the selector works on object crops; those that look at no image have no unit."""
    return bool(cfg.NDS.UNIT == OBJECT) and cfg.NDS.SELECTOR in (*CLUSTER_SELECTORS, *SEES_TARGET)


def expert_config(cfg: CN) -> ExpertConfig:
    node = cfg.NDS.EXPERTS
    return ExpertConfig(
        task=node.TASK,
        init=node.INIT,
        crop_size=node.CROP_SIZE,
        steps=node.STEPS,
        shared_steps=node.SHARED_STEPS,
        batch_size=node.BATCH_SIZE,
        base_lr=node.BASE_LR,
        seed=node.SEED,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def partition_config(cfg: CN) -> PartitionConfig:
    node = cfg.NDS.PARTITION
    return PartitionConfig(
        method=node.METHOD, num_clusters=node.NUM_CLUSTERS, min_size=node.MIN_SIZE, seed=node.SEED
    )


def scoring_config(cfg: CN, seed: int = 0) -> ScoringConfig:
    return ScoringConfig(
        metric=cfg.NDS.SCORING.METRIC,
        max_images=cfg.NDS.SCORING.MAX_IMAGES or None,
        seed=seed,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def target_config(cfg: CN) -> TargetConfig:
    return TargetConfig(cfg.NDS.SCORING.MAX_IMAGES or None, 0, cfg.DATALOADER.NUM_WORKERS)


def object_config(cfg: CN) -> ObjectConfig:
    node = cfg.NDS.OBJECTS
    return ObjectConfig(node.PER_IMAGE, node.MIN_SIDE, node.CONTEXT, node.POOL)


def gate_config(cfg: CN) -> GateConfig:
    return GateConfig(l2=cfg.NDS.GATE.L2)


def image_selector(cfg: CN) -> ImageSelector:
    """The selector of single images that ``NDS.SELECTOR`` names."""
    nds, name = cfg.NDS, cfg.NDS.SELECTOR
    if name == Oracle.name:
        return Oracle(tuple(nds.ORACLE.SOURCES), tuple(nds.ORACLE.CLASSES), nds.ORACLE.REST)
    if name == DomainClassifier.name:
        return DomainClassifier(nds.DOMAIN_CLASSIFIER.L2, nds.DOMAIN_CLASSIFIER.FOLDS)
    return NearestNeighbours(nds.KNN.NEIGHBOURS, nds.TEMPERATURE, nds.NORMALISATION)


def selection_config(cfg: CN) -> SelectionConfig:
    nds = cfg.NDS
    full = nds.SELECTOR == "full"
    return SelectionConfig(
        selector=nds.SELECTOR,
        mode=nds.MODE,
        count=0 if full else nds.BUDGET.IMAGES,
        share=0.0 if full else nds.BUDGET.SHARE,
        temperature=nds.TEMPERATURE,
        normalisation=nds.NORMALISATION,
        seed=nds.SEED,
        gate_draw=nds.GATE.DRAW,
    )


def check_settings(cfg: CN) -> None:
    """Refuse numbers and names of any step that are out of range, before the first one runs.

    Raises:
        NDSError: see the configs of the steps.
    """
    nds = cfg.NDS
    if not nds.SOURCE.DATASETS:
        raise NDSError("NDS.SOURCE.DATASETS is empty: name at least one registered dataset to select from.")
    if nds.UNIT not in UNITS:
        raise unknown_name("NDS.UNIT", nds.UNIT, UNITS)
    config = selection_config(cfg)
    if config.needs_budget:
        check_budget(config.count, config.share)
    if by_objects(cfg):
        object_config(cfg)
    if nds.SELECTOR in CLUSTER_SELECTORS:
        partition_config(cfg)
        gate_config(cfg)
        scoring_config(cfg)
    elif nds.SELECTOR in (*SEES_TARGET, Oracle.name):
        image_selector(cfg)
    if nds.SELECTOR in (*CLUSTER_SELECTORS, *SEES_TARGET):
        expert_config(cfg)
        _check_feature_network(nds)
    if config.selector == Oracle.name:
        for name in nds.ORACLE.SOURCES:
            if name not in nds.SOURCE.DATASETS:
                raise unknown_name("dataset in NDS.ORACLE.SOURCES", name, nds.SOURCE.DATASETS)


def _check_feature_network(nds: CN) -> None:
    weights = nds.PARTITION.WEIGHTS
    if not weights and not nds.EXPERTS.SHARED_STEPS:
        raise NDSError(
            "no network for the features of the partition: set NDS.PARTITION.WEIGHTS to a checkpoint, or "
            "NDS.EXPERTS.SHARED_STEPS to 1 or more to train one."
        )
    if weights and not Path(weights).is_file():
        raise NDSError(f"NDS.PARTITION.WEIGHTS: no such file: {weights}.")
