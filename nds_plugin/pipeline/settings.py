"""The settings of all steps, as plain values: what a host makes of its own config, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nds_plugin.engine.config import EngineConfig
from nds_plugin.errors import NDSError, few, unknown_name
from nds_plugin.experts.settings import ExpertConfig, HeadConfig, ScoringConfig
from nds_plugin.images.named_network import NamedNetwork
from nds_plugin.selection.config import LoaderConfig, SelectionConfig
from nds_plugin.selection.drawing import check_budget
from nds_plugin.selection.selectors import Need, Selector
from nds_plugin.selection.selectors.base import TargetConfig
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.snds import DescribedBy
from nds_plugin.source.objects import UNITS, ObjectConfig
from nds_plugin.source.partitioning import PartitionConfig

OBJECT = "object"


def check_dataset_names(names: Sequence[Any], key: str) -> None:
    """Refuse a list of a config that does not name datasets, each once.

    Raises:
        NDSError: something in it that is no name, or a name twice; it says ``key``.
    """
    for name in names:
        if not isinstance(name, str):
            raise NDSError(f"{key} must be a list of names of datasets, got {name!r} in it.")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise NDSError(f"{key} names {few(twice, 3)} more than once: name each dataset once.")


@dataclass(frozen=True)
class PipelineSettings:
    """How a source becomes a selection.

    A host leaves the settings of steps that its selector does not run as they are by default. Messages
    call the settings as the configs of Detectron2 do.

    Attributes:
        sources: names of the source's datasets, joined in this order.
        targets: names of the datasets of the client's images.
        selection: selector with its settings, mode, budget, seed.
        unit: what is clustered, scored and compared, one of ``UNITS``.
        partition: of the source.
        experts: their kind and training; crop size and workers are those of the features, too.
        scoring: of the experts, by the client.
        target: which of the client's images a gate or an image selector looks at.
        objects: which objects stand for an image, with ``unit="object"``.
        gate: its training.
        described: by which experts the source is described, or what they are trained on.
        engine: where the passes over the source run.
        annotated_only: leave out the source's images without an annotated object.
        loader: which share of the source's image files may be missing.

    Raises:
        NDSError: names or numbers that the selector cannot work with.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    unit: str = UNITS[0]
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    experts: ExpertConfig | HeadConfig = field(default_factory=HeadConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    described: DescribedBy = field(default_factory=DescribedBy)
    engine: EngineConfig = field(default_factory=EngineConfig)
    annotated_only: bool = True
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        if not self.sources:
            raise NDSError(
                "NDS.SOURCE.DATASETS is empty: name at least one registered dataset to select from."
            )
        check_dataset_names(self.sources, "NDS.SOURCE.DATASETS")
        check_dataset_names(self.described.datasets, "NDS.SNDS.DATASETS")
        if self.unit not in UNITS:
            raise unknown_name("NDS.UNIT", self.unit, UNITS)
        if self.selection.needs_budget:
            check_budget(self.selection.count, self.selection.share)
        if self.selector.needs:
            self._check_networks()
        self.selector.check_sources(self.sources)

    @property
    def selector(self) -> Selector:
        """What weighs."""
        selector = self.selection.selector
        if isinstance(selector, type):
            raise NDSError(
                f"the steps weigh themselves: give the selector {selector.name} with its settings."
            )
        return selector

    @property
    def by_objects(self) -> bool:
        """Whether the selector works on object crops; those that look at no image have no unit."""
        return self.unit == OBJECT and bool(self.selector.needs)

    @property
    def feature_network(self) -> NamedNetwork | None:
        """Whose features are compared: the partition's own network, else that of head experts; None: the shared one."""
        if self.partition.is_named:
            return self.partition
        return self.experts if isinstance(self.experts, HeadConfig) else None

    def _check_networks(self) -> None:
        if Need.DESCRIPTION in self.selector.needs and not (
            self.described.experts or self.described.datasets
        ):
            raise NDSError(
                "NDS.SNDS.EXPERTS and NDS.SNDS.DATASETS are both empty: name the folder of the experts that describe the "
                "source (experts of any other source do), or the datasets to train them on."
            )
        experts = self.experts
        if isinstance(experts, HeadConfig):
            experts.check_file("NDS.EXPERTS")
        elif not self.partition.is_named and not experts.shared_steps:
            raise NDSError(
                "no network for the features of the partition: name one by NDS.PARTITION.NETWORK or .WEIGHTS, or set "
                "NDS.EXPERTS.SHARED_STEPS to 1 or more to train one."
            )
        self.partition.check_file("NDS.PARTITION")
