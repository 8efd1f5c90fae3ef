"""From ``cfg`` to the settings of the selecting half: the one place where the two meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nds_plugin.engine.config import EngineConfig
from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import HEAD, NETWORK
from nds_plugin.experts.settings import EXPERT_CONFIGS, ExpertConfig, ExpertKind, HeadConfig, ScoringConfig
from nds_plugin.pipeline.config_nodes import read_settings
from nds_plugin.pipeline.settings import OBJECT, PipelineSettings, check_dataset_names
from nds_plugin.selection.config import LoaderConfig, SelectionConfig
from nds_plugin.selection.select import needs_scores
from nds_plugin.selection.selectors import SELECTORS, Need, Selector
from nds_plugin.selection.selectors.base import TargetConfig
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.snds import DescribedBy
from nds_plugin.source.objects import ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig

# The keys of each kind of experts that name a network. Schedules are no mistake: configs hold those of both kinds.
_NETWORKS = {NETWORK: ("PRETRAINED",), HEAD: ("NETWORK", "WEIGHTS")}


def pipeline_settings(cfg: Any, targets: Sequence[str]) -> PipelineSettings:
    """The settings of the steps that the selector runs; the others keep their defaults.

    Args:
        cfg: Detectron2's config with ``cfg.NDS``, or what another host has of it: ``cfg.NDS`` and of
            ``cfg.DATALOADER`` NUM_WORKERS and FILTER_EMPTY_ANNOTATIONS.
        targets: names of the datasets of the client's images; one that training takes twice is scored once.

    Raises:
        NDSError: names or numbers that are out of range.
    """
    nds, workers = cfg.NDS, cfg.DATALOADER.NUM_WORKERS
    selection = selection_config(cfg)
    needs = selection.selector.needs
    return PipelineSettings(
        sources=tuple(nds.SOURCE.DATASETS),
        targets=tuple(dict.fromkeys(targets)),
        selection=selection,
        unit=nds.UNIT,
        partition=read_settings(PartitionConfig, nds, "PARTITION") if needs else PartitionConfig(),
        experts=expert_config(cfg) if needs else HeadConfig(),
        scoring=read_settings(ScoringConfig, nds, "SCORING", num_workers=workers)
        if needs_scores(selection.selector)
        else ScoringConfig(),
        target=TargetConfig(nds.SCORING.MAX_IMAGES or None, num_workers=workers) if needs else TargetConfig(),
        objects=read_settings(ObjectConfig, nds, "OBJECTS")
        if needs and nds.UNIT == OBJECT
        else ObjectConfig(),
        gate=read_settings(GateConfig, nds, "GATE") if Need.GATE in needs else GateConfig(),
        described=read_settings(DescribedBy, nds, "SNDS") if Need.DESCRIPTION in needs else DescribedBy(),
        engine=read_settings(EngineConfig, nds, "RAY"),
        annotated_only=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        loader=read_settings(LoaderConfig, nds, "LOADER"),
    )


def source_datasets(nds: Any) -> tuple[str, ...]:
    """Names of all datasets that the steps read beside the client's, each once.

    Args:
        nds: ``cfg.NDS``; its selector may be one that no registry knows.

    Raises:
        NDSError: something that is no name, or a name twice in a list.
    """
    lists = {"SOURCE": nds.SOURCE.DATASETS}
    if nds.SELECTOR in SELECTORS and Need.DESCRIPTION in SELECTORS[nds.SELECTOR].needs:
        lists["SNDS"] = nds.SNDS.DATASETS
    for key, names in lists.items():
        check_dataset_names(names, f"NDS.{key}.DATASETS")
    return tuple(dict.fromkeys(name for names in lists.values() for name in names))


def expert_config(cfg: Any) -> ExpertConfig | HeadConfig:
    """The experts of ``NDS.EXPERTS.KIND``.

    Raises:
        NDSError: a value out of range, or a network that experts of this kind do not look at.
    """
    kind = read_settings(ExpertKind, cfg.NDS, "EXPERTS").kind
    for other, keys in _NETWORKS.items():
        for key in keys:
            if other != kind and cfg.NDS.EXPERTS[key]:
                raise NDSError(
                    f"NDS.EXPERTS.{key} is of experts of kind {other!r}, and those of kind {kind!r} would not look at it: leave it "
                    f"empty, or set NDS.EXPERTS.KIND {other}."
                )
    return read_settings(EXPERT_CONFIGS[kind], cfg.NDS, "EXPERTS", num_workers=cfg.DATALOADER.NUM_WORKERS)


def selection_config(cfg: Any) -> SelectionConfig:
    """How to draw."""
    selector = selector_of(cfg)
    no_budget = {"count": 0, "share": 0.0} if selector.whole else {}
    return read_settings(SelectionConfig, cfg.NDS, "", selector=selector, **no_budget)


def selector_of(cfg: Any) -> Selector:
    """The selector that ``NDS.SELECTOR`` names, with its settings."""
    name = cfg.NDS.SELECTOR
    return read_settings(SELECTORS[name], cfg.NDS, name.upper())
