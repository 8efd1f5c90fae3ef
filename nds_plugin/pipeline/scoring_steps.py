"""The steps between partition and draw: what experts, a gate or a description say of the client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from nds_plugin.engine.processes import agreed
from nds_plugin.experts.describing import describe_source
from nds_plugin.experts.description import KIND as DESCRIPTION_KIND
from nds_plugin.experts.description import Description
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import KIND as SCORES_KIND
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.scoring_shards import ScoringShards, remove_shards, scoring_shards
from nds_plugin.files.artifacts import content_hash
from nds_plugin.pipeline.expert_steps import DescribingExperts, train_source_experts
from nds_plugin.pipeline.scores_text import warn_if_indistinct
from nds_plugin.pipeline.source_steps import SourceSteps
from nds_plugin.selection.selectors import Need
from nds_plugin.selection.selectors.base import Features
from nds_plugin.selection.selectors.gate_network import gate_key, score_gate, train_gate
from nds_plugin.selection.selectors.gate_set import CENTROIDS, Gate, gate_is_complete
from nds_plugin.selection.selectors.snds import ScalableNDS, similar_scores
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)


class ScoringSteps:
    """The steps of one job that end in the client's scores; its processes call them together.

    Args:
        source: the steps before, whose settings, host, folder and device are also these steps'.
    """

    def __init__(self, source: SourceSteps) -> None:
        self.source = source
        self.settings, self.host = source.settings, source.host
        self.work, self.device = source.work, source.device
        self.describing = DescribingExperts(source)

    def _gate(self, index: SourceIndex, partition: Partition) -> Gate:
        """The gate, or the centroids in its form."""
        by_centroids = Need.CENTROIDS in self.settings.selector.needs
        config = None if by_centroids else self.settings.gate
        made_by = config.identity() if config else CENTROIDS
        key = content_hash(["gate", self.source.features_key(index), partition.hash, made_by])

        crop_size = self.settings.experts.crop_size

        def complete(folder: Path) -> bool:
            network = self.source.feature_network(index)
            return gate_is_complete(folder, gate_key(index, partition, network, crop_size, config))

        def make(folder: Path) -> None:
            shards = self.source.features(index)
            if self.host.rank == 0:
                network, features = self.source.feature_network(index), Features(*shards.load())
                train_gate(index, partition, network, features, crop_size, config, folder)

        return Gate.load(self.work.subfolder("centroids" if by_centroids else "gate", key, make, complete))

    def scores(self, index: SourceIndex, partition: Partition, client: SourceIndex) -> Scores:
        """Scores of the source's clusters, by what the selector needs.

        Args:
            index, partition: the source, images or objects.
            client: the client's images, or objects of them.
        """
        target = agreed(self.host, lambda: client.hash)
        if self.settings.selector.needs & (Need.GATE | Need.CENTROIDS):
            gate = self._gate(index, partition)
            where = self.settings.target
            key = content_hash([SCORES_KIND, gate.hash, target, *where.identity().values()])

            def make_gate_scores(path: Path) -> None:
                score_gate(gate, client, where, self.device).save(path, key=key)

            return Scores.load(self.work.artefact("scores", SCORES_KIND, key, ".json", make_gate_scores))
        if Need.DESCRIPTION in self.settings.selector.needs:
            return self._similarities(index, partition, client, target)
        return self._expert_scores(train_source_experts(self.source, index, partition), client, target)

    def _expert_scores(self, experts: ExpertSet, client: SourceIndex, target: str) -> Scores:
        """z of some experts on the client's images, of which ``target`` is the hash."""
        config = self.settings.scoring
        decisive = list(config.identity().values())
        key = content_hash([SCORES_KIND, experts.hash, experts.manifest["partition"], target, decisive])

        def make(path: Path) -> None:
            with self._shards(path) as shards:
                score_experts(experts, client, config, shards=shards).save(path, key=key)

        scores = Scores.load(self._scored("scores", SCORES_KIND, key, make))
        scores.check_matches(experts.hash, experts.clusters)
        scores = scores.with_metric(config.metric)
        if self.host.rank == 0:
            warn_if_indistinct(scores)
        return scores

    def _scored(self, name: str, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The path of an artefact that is made of shards, which are gone."""
        path = self.work.artefact(name, kind, key, ".json", make)
        if self.host.rank == 0:
            remove_shards(path)
        return path

    def _shards(self, path: Path) -> AbstractContextManager[ScoringShards]:
        """Shards of the passes whose result is ``path``, by the main process and whom it asks."""
        engine = self.settings.engine
        return scoring_shards(self.source.executor.alone(), path, engine.whole_batches)

    def _similarities(
        self, index: SourceIndex, partition: Partition, client: SourceIndex, target: str
    ) -> Scores:
        """How alike the client and each cluster are to experts of another source, which describe the clusters."""
        experts, config = self.describing.load(index, partition), self.settings.scoring
        key = content_hash([DESCRIPTION_KIND, experts.hash, partition.hash, *config.identity().values()])

        def make(path: Path) -> None:
            with self._shards(path) as shards:
                describe_source(experts, index, partition, config, shards=shards).save(path, key)

        description = Description.load(self._scored("description", DESCRIPTION_KIND, key, make))
        scores, selector = self._expert_scores(experts, client, target), self.settings.selector
        assert isinstance(selector, ScalableNDS)
        return similar_scores(scores, description, selector.similarity)
