"""From named datasets to a selection: index, partition, experts, scores, draw.

Each step leaves one artefact in the work folder, named by the hash of what it was made from, and
is skipped where that artefact is there and whole. Runs that share the folder share the artefacts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nds_plugin.engine.processes import agreed
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.files.artifacts import content_hash
from nds_plugin.pipeline.host import Host
from nds_plugin.pipeline.scoring_steps import ScoringSteps
from nds_plugin.pipeline.selection_log import log_selection
from nds_plugin.pipeline.settings import OBJECT, PipelineSettings
from nds_plugin.pipeline.source_steps import SourceSteps
from nds_plugin.pipeline.units import image_index, object_index
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.selection.drawing import resolve_budget
from nds_plugin.selection.image_weights import KIND as WEIGHTS_KIND
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.select import needs_scores, select, selector_weights
from nds_plugin.selection.selection import KIND as SELECTION_KIND
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import ImageSelector, Need
from nds_plugin.selection.selectors.base import Evidence, Features, weigh_images
from nds_plugin.selection.selectors.target import target_features
from nds_plugin.selection.weights import image_probabilities
from nds_plugin.source.feature_shards import FeatureShards
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.objects import parents, pool_objects
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import check_num_clusters

logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Selected:
    """What the selecting half leaves behind.

    Attributes:
        selection, path, key: the selection and where it is.
        index, partition: of the source; the partition is that of the source datasets where single
            images were weighed.
        scores: the client's scores of these clusters, else None.
        paths: every artefact by name, for the report.
    """

    selection: Selection
    path: Path
    key: str
    index: SourceIndex
    partition: Partition
    scores: Scores | None
    paths: dict[str, str]


@dataclass(frozen=True)
class Weighed:
    """What a draw is made from; see :func:`nds_plugin.selection.select.select`."""

    index: SourceIndex
    partition: Partition
    scores: Scores | None
    weights: ImageWeights | None


class SelectionSteps:
    """The steps of one job; all its processes call :meth:`run` together.

    Args:
        settings: of all steps.
        host: whose datasets and processes they are.
        folder: of the artefacts.
        device: where networks run.
        timed: ``timed(name)`` is a context that takes the time of a step.
        check: the host's own refusal, called with the source's index, and how many images of it are
            drawn at most, before anything is trained.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        host: Host,
        folder: Path,
        *,
        device: torch.device = _CPU,
        timed: Callable[[str], Any] = contextlib.nullcontext,
        check: Callable[[SourceIndex, int], None] | None = None,
    ) -> None:
        self.settings = settings
        self.host = host
        self.folder = folder
        self.device = device
        self.work = WorkFolder(folder, host, timed)
        self.source = SourceSteps(settings, host, self.work, device)
        self.scoring = ScoringSteps(self.source)
        self._check = check

    def run(self) -> Selected:
        """Make what is missing of the artefacts, the selection last.

        Raises:
            NDSError: bad input; finished steps are kept.
        """
        found = self.weigh()
        selection, path, key = self._selection(found)
        log_selection(selection, found.index, found.partition)
        return Selected(selection, path, key, found.index, found.partition, found.scores, self.work.paths)

    def weigh(self) -> Weighed:
        """All that comes before the draw: what the selector knows of clusters or single images."""
        if self.settings.selector.needs and self.host.rank == 0:
            self.source.check_networks()
            self.scoring.describing.check_folder()
        index = self.source.index()
        self._check_sizes(index)
        selector = self.settings.selector
        self.scoring.describing.check_datasets()
        # Uniform and full draw every image alike, whatever the clusters: they need none.
        partition, scores, weights = Partition.whole(index), None, None
        if self.settings.by_objects:
            partition, weights = Partition.by_source(index), self._weights_by_objects(index)
        elif isinstance(selector, ImageSelector):
            partition, weights = Partition.by_source(index), self._image_weights(index, selector)
        elif Need.CLUSTERS in selector.needs:
            partition = self.source.partition(index)
            scores = self.scoring.scores(index, partition, self.target) if needs_scores(selector) else None
        return Weighed(index, partition, scores, weights)

    def _check_sizes(self, index: SourceIndex) -> None:
        """What only the index can tell, before experts are trained."""
        config, most = self.settings.selection, len(index)
        if config.needs_budget:
            most = resolve_budget(len(index), config.count, config.share)
        if Need.CLUSTERS in config.selector.needs and not self.settings.by_objects:
            check_num_clusters(self.settings.partition.num_clusters, len(index))
        if self._check:
            self._check(index, most)

    @functools.cached_property
    def target(self) -> SourceIndex:
        """The client's images, or the crops of their objects."""
        index = image_index(self.host, self.settings.targets)
        if not self.settings.by_objects:
            return index
        return object_index(self.host, index, self.settings.targets, self.settings.objects)

    def _weights_by_objects(self, images: SourceIndex) -> ImageWeights:
        """The same steps on object crops; an image's weight comes from its objects."""
        objects = self.source.objects(images)
        parent = parents(objects, images)
        selector = self.settings.selector
        if isinstance(selector, ImageSelector):
            found = self._image_weights(objects, selector)
            p, cost, details = found.p, found.cost, dict(found.details)
        else:
            partition = self.source.partition(objects)
            scores = self.scoring.scores(objects, partition, self.target)
            weights = selector_weights(selector, partition.sizes, scores)
            p, cost = image_probabilities(weights, partition.cluster), scores.cost
            details = {
                "metric": scores.metric, "z": list(scores.z), "w": weights.tolist(),
                "sizes": partition.sizes.tolist(), "expert_set": scores.expert_set,
            }  # fmt: skip
        pool = self.settings.objects.pool
        pooled = pool_objects(p, parent, len(images), pool)
        details |= {"unit": OBJECT, "objects": len(objects), "pool": pool}
        identities = images.table.select(["source", "image_id"])
        return ImageWeights(
            pooled / pooled.sum(), identities, selector.name, selector.sees_target, cost, details
        )

    def _image_weights(self, index: SourceIndex, selector: ImageSelector) -> ImageWeights:
        """Weights of the rows of an index, images or objects, by an image selector."""
        looks = bool(selector.needs & (Need.FEATURES | Need.TARGET))
        looked_at: list[Any] = []
        if looks:
            seen = agreed(self.host, lambda: self.target.hash)
            looked_at = [self.source.features_key(index), seen, *self.settings.target.identity().values()]
        partition = self.source.partition(index) if Need.CLUSTERS in selector.needs else None
        looked_at += [partition.hash] if partition else []
        key = content_hash([WEIGHTS_KIND, selector.name, selector.identity(), index.hash, looked_at])

        def make(path: Path) -> None:
            shards = self.source.features(index) if looks else None
            if self.host.rank == 0:
                evidence = self.evidence(index, shards) if shards else Evidence(index)
                weigh_images(selector, dataclasses.replace(evidence, partition=partition)).save(path, key)

        made = self.work.artefact("image_weights", WEIGHTS_KIND, key, ".parquet", make, together=True)
        return ImageWeights.load(made)

    def evidence(self, index: SourceIndex, shards: FeatureShards) -> Evidence:
        """Features of both sides for an image selector, of one process; ``shards`` are the source's."""
        network, crop = self.source.feature_network(index), self.settings.experts.crop_size
        seen = target_features(network, self.target, crop, self.settings.target, self.device)
        return Evidence(index, Features(*shards.load()), seen)

    def rescore(self, iteration: int) -> npt.NDArray[np.float64]:
        """w from scores on the target's images as they are now, another draw of them each time."""
        experts = ExpertSet.load(self.work.paths["experts"])
        config = dataclasses.replace(self.settings.scoring, seed=iteration)
        images = image_index(self.host, self.settings.targets)
        scores = score_experts(experts, images, config, device=self.device)
        partition = Partition.load(self.work.paths["partition"])
        return selector_weights(self.settings.selector, partition.sizes, scores)

    def _selection(self, found: Weighed) -> tuple[Selection, Path, str]:
        index, partition, scores, weights = found.index, found.partition, found.scores, found.weights
        config = self.settings.selection
        scored = [scores.expert_set, scores.metric, list(scores.z)] if scores else None
        by = ["images", weights.hash] if weights else scored
        key = content_hash([SELECTION_KIND, index.hash, partition.hash, by, config.identity()])

        def make(path: Path) -> None:
            select(index, partition, config, scores, weights).save(path, key)

        path = self.work.artefact("selection", SELECTION_KIND, key, ".parquet", make)
        return Selection.load(path), path, key
