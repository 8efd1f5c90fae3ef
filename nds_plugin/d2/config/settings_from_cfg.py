"""From ``cfg`` to the settings of the selecting half: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode as CN

from nds_plugin.experts.scoring import ScoringConfig
from nds_plugin.experts.train_network import ExpertConfig
from nds_plugin.pipeline.settings import PipelineSettings, needs_features
from nds_plugin.selection.config import CLUSTER_SELECTORS, IMAGE_SELECTORS, SelectionConfig
from nds_plugin.selection.selectors.base import ImageSelector
from nds_plugin.selection.selectors.domain_classifier import DomainClassifier
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.selection.selectors.oracle import Oracle
from nds_plugin.selection.selectors.target import TargetConfig
from nds_plugin.source.objects import ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig


def pipeline_settings(cfg: CN, targets: Sequence[str]) -> PipelineSettings:
    """The settings of the steps that the selector runs; the others keep their defaults.

    Args:
        cfg: a config with ``cfg.NDS``.
        targets: names of the datasets of the client's images.

    Raises:
        NDSError: names or numbers that are out of range.
    """
    nds, selector = cfg.NDS, cfg.NDS.SELECTOR
    by_clusters, looks = selector in CLUSTER_SELECTORS, needs_features(selector)
    return PipelineSettings(
        sources=tuple(nds.SOURCE.DATASETS),
        targets=tuple(targets),
        selection=selection_config(cfg),
        unit=nds.UNIT,
        partition=_partition(nds) if by_clusters else PartitionConfig(),
        weights=nds.PARTITION.WEIGHTS,
        experts=_experts(cfg) if looks else ExpertConfig(),
        scoring=_scoring(cfg) if by_clusters else ScoringConfig(),
        target=_target(cfg) if looks else TargetConfig(),
        objects=_objects(nds) if looks and nds.UNIT == "object" else ObjectConfig(),
        gate=GateConfig(l2=nds.GATE.L2) if by_clusters else GateConfig(),
        image_selector=image_selector(cfg) if selector in IMAGE_SELECTORS else None,
        annotated_only=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        max_unreadable=nds.LOADER.MAX_UNREADABLE,
    )


def selection_config(cfg: CN) -> SelectionConfig:
    """How to draw."""
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


def image_selector(cfg: CN) -> ImageSelector:
    """The selector of single images that ``NDS.SELECTOR`` names."""
    nds, name = cfg.NDS, cfg.NDS.SELECTOR
    if name == Oracle.name:
        return Oracle(tuple(nds.ORACLE.SOURCES), tuple(nds.ORACLE.CLASSES), nds.ORACLE.REST)
    if name == DomainClassifier.name:
        return DomainClassifier(nds.DOMAIN_CLASSIFIER.L2, nds.DOMAIN_CLASSIFIER.FOLDS)
    return NearestNeighbours(nds.KNN.NEIGHBOURS, nds.TEMPERATURE, nds.NORMALISATION)


def _experts(cfg: CN) -> ExpertConfig:
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


def _partition(nds: CN) -> PartitionConfig:
    node = nds.PARTITION
    return PartitionConfig(
        method=node.METHOD, num_clusters=node.NUM_CLUSTERS, min_size=node.MIN_SIZE, seed=node.SEED
    )


def _scoring(cfg: CN) -> ScoringConfig:
    return ScoringConfig(
        metric=cfg.NDS.SCORING.METRIC,
        max_images=cfg.NDS.SCORING.MAX_IMAGES or None,
        seed=0,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _target(cfg: CN) -> TargetConfig:
    return TargetConfig(cfg.NDS.SCORING.MAX_IMAGES or None, 0, cfg.DATALOADER.NUM_WORKERS)


def _objects(nds: CN) -> ObjectConfig:
    node = nds.OBJECTS
    return ObjectConfig(node.PER_IMAGE, node.MIN_SIDE, node.CONTEXT, node.POOL)
