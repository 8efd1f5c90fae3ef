"""The experts of a source's clusters, and those that describe a source on which none was trained."""

from __future__ import annotations

import functools
import logging
import shutil

import numpy as np

from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import SHARED
from nds_plugin.experts.settings import ExpertConfig, HeadConfig
from nds_plugin.experts.train_experts import experts_key, is_complete, train_cluster_experts, write_manifest
from nds_plugin.experts.train_heads import heads_key, train_heads
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.pipeline.source_steps import SourceSteps
from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)


def train_source_experts(source: SourceSteps, index: SourceIndex, partition: Partition) -> ExpertSet:
    """The experts of the clusters of a source; the processes of the job call it together.

    Args:
        source: the steps before, whose settings and folder are also these.
        index, partition: the source, images or objects.
    """
    config = source.settings.experts
    if isinstance(config, HeadConfig):
        logger.info("experts: heads on %s", config.network or config.weights)
        return _heads(source, index, partition, config)
    return _networks(source, index, partition, config)


def _networks(
    source: SourceSteps, index: SourceIndex, partition: Partition, config: ExpertConfig
) -> ExpertSet:
    """Experts that are networks of their own."""
    host, key = source.host, experts_key(index, partition, config)
    folder = source.work.place("experts", key)
    # Decided before anybody writes, so that all processes take the same way.
    complete = host.all_gather(is_complete(folder, key))[0]
    if complete:
        logger.info("experts: kept %s", folder)
        return ExpertSet.load(folder)
    if config.shared_steps:
        shared = source.shared(index) / SHARED
        if host.rank == 0 and not (folder / SHARED).exists():
            with open(shared, "rb") as file, atomic_write(folder / SHARED) as target:
                shutil.copyfileobj(file, target)
    host.barrier()
    with source.work.timed("experts"):
        train_cluster_experts(index, partition, config, folder, executor=source.executor)
        if host.rank == 0:
            write_manifest(index, partition, config, folder)
        host.barrier()
    return ExpertSet.load(folder)


def _heads(source: SourceSteps, index: SourceIndex, partition: Partition, config: HeadConfig) -> ExpertSet:
    """Head experts: one pass of features and small fits."""
    network = source.named(config)
    key = agreed(source.host, lambda: heads_key(index, partition, network, config))
    folder = source.work.place("experts", key)
    with source.work.timed("experts"):
        return train_heads(
            index, partition, network, config, folder,
            executor=source.executor, shard_size=source.settings.engine.whole_batches,
        )  # fmt: skip


class DescribingExperts:
    """The experts that describe a source: those of a folder, or of datasets of their own, trained by the job.

    Args:
        source: the steps of the source that is described.
    """

    def __init__(self, source: SourceSteps) -> None:
        self._by = source.settings.described
        self._own = source.of(self._by.datasets, "describing_") if self._by.datasets else None

    @functools.cached_property
    def _units(self) -> SourceIndex:
        """The images of the datasets, or the objects of them."""
        assert self._own is not None
        try:
            index = self._own.index()
            return self._own.objects(index) if self._own.settings.by_objects else index
        except NDSError as error:
            raise NDSError(f"NDS.SNDS.DATASETS: {error}") from None

    def check_folder(self) -> None:
        """Refuse a folder without experts, before any work; of one process.

        Raises:
            NDSError: it holds none that can be read.
        """
        if self._by.experts:
            try:
                ExpertSet.load(self._by.experts)
            except NDSError as error:
                raise NDSError(f"NDS.SNDS.EXPERTS: {error}") from None

    def check_datasets(self) -> None:
        """Refuse datasets that no experts can be trained on, before anything is trained; the processes call it together.

        Raises:
            NDSError: they cannot be read, or hold fewer images (objects, classes) than clusters are asked for.
        """
        if self._own is None:
            return
        config = self._own.settings.partition
        what, most = "objects" if self._own.settings.by_objects else "images", len(self._units)
        if config.method == "superclass":
            labels = np.unique(self._units.column("label"))
            what, most = "classes", int((labels != NO_LABEL).sum())
        if most < config.num_clusters:
            raise NDSError(
                f"NDS.SNDS.DATASETS: cannot cut the {most} {what} of {', '.join(self._by.datasets)} into "
                f"{config.num_clusters} clusters: name more datasets, or lower NDS.PARTITION.NUM_CLUSTERS."
            )

    def load(self, index: SourceIndex, partition: Partition) -> ExpertSet:
        """The experts; trained where they are not there.

        Args:
            index, partition: what they are to describe.

        Raises:
            NDSError: a cluster that experts of the supervised task cannot describe.
        """
        if self._own is None:
            found = ExpertSet.load(self._by.experts)
            self._check_classes(found.task, index, partition)
            return found
        self._check_classes(self._own.settings.experts.task, index, partition)
        logger.info("experts that describe the source: trained on %s", ", ".join(self._by.datasets))
        return train_source_experts(self._own, self._units, self._own.partition(self._units))

    def _check_classes(self, task: str, index: SourceIndex, partition: Partition) -> None:
        """The supervised task is to tell the classes of a cluster apart."""
        if task != "supervised":
            return
        labels = index.column("label")
        for cluster in range(partition.num_clusters):
            own = np.unique(labels[partition.members(cluster)])
            if (own != NO_LABEL).sum() < 2:
                raise NDSError(
                    f"cluster {cluster} of the source has images of fewer than two classes, and experts of the supervised task cannot "
                    "describe it: take experts of another task, or cut the source into fewer clusters (NDS.PARTITION)."
                )
