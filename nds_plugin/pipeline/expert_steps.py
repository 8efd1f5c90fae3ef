"""The experts of a source's clusters, and those that describe a source on which none was trained."""

from __future__ import annotations

import logging
import shutil

from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import SHARED
from nds_plugin.experts.settings import ExpertConfig, HeadConfig
from nds_plugin.experts.train_experts import experts_key, is_complete, train_cluster_experts, write_manifest
from nds_plugin.experts.train_heads import heads_key, train_heads
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.pipeline.source_steps import SourceSteps
from nds_plugin.source.index import SourceIndex
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

    def check(self) -> None:
        """Refuse datasets that no experts can be trained on, before anything is trained; the processes call it together.

        Raises:
            NDSError: they cannot be read, or hold fewer images than clusters are asked for.
        """
        if self._own is None:
            return
        images, clusters = len(self._own.index()), self._own.settings.partition.num_clusters
        if images < clusters:
            raise NDSError(
                f"NDS.SNDS.DATASETS: cannot cut the {images} images of {', '.join(self._by.datasets)} into {clusters} clusters: "
                "name more datasets, or lower NDS.PARTITION.NUM_CLUSTERS."
            )

    def load(self) -> ExpertSet:
        """The experts; trained where they are not there."""
        if self._own is None:
            return ExpertSet.load(self._by.experts)
        logger.info("experts that describe the source: trained on %s", ", ".join(self._by.datasets))
        index = self._own.index()
        if self._own.settings.by_objects:
            index = self._own.objects(index)
        return train_source_experts(self._own, index, self._own.partition(index))
