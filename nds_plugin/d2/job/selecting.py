"""The selecting half of the main job: index, partition, experts, scores, selection.

Each step leaves one artefact in the work folder, named by the hash of what it was made from, and
is skipped where that artefact is there and whole. Runs that share the folder share the artefacts.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode as CN
from detectron2.utils import comm

from nds_plugin.d2.data.drawn_dataset import selection_label_space
from nds_plugin.d2.data.registration import dataset_classes
from nds_plugin.d2.job import selector_settings as settings
from nds_plugin.d2.job.checks import check_shared_classes
from nds_plugin.d2.job.selection_log import log_selection, warn_if_indistinct
from nds_plugin.d2.job.source_steps import SourceSteps
from nds_plugin.d2.job.units import object_index, target_datasets, target_index
from nds_plugin.d2.job.work_folder import WorkFolder, agreed
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import SHARED
from nds_plugin.experts.scores import KIND as SCORES_KIND
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.train_experts import experts_key, is_complete, train_cluster_experts, write_manifest
from nds_plugin.files.artifacts import atomic_write, content_hash
from nds_plugin.selection.config import CLUSTER_SELECTORS, IMAGE_SELECTORS
from nds_plugin.selection.drawing import resolve_budget
from nds_plugin.selection.image_weights import KIND as WEIGHTS_KIND
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.select import select, selector_weights
from nds_plugin.selection.selection import KIND as SELECTION_KIND
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.base import Evidence, weigh_images
from nds_plugin.selection.selectors.base import settings as settings_of
from nds_plugin.selection.selectors.gate_network import score_gate, train_gate
from nds_plugin.selection.selectors.gate_set import Gate
from nds_plugin.selection.selectors.target import target_features
from nds_plugin.selection.weights import image_probabilities
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.objects import parents, pool_objects
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import check_num_clusters

logger = logging.getLogger(__name__)


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
    """The steps of one config; every process of a job calls :meth:`run` together."""

    def __init__(self, cfg: CN, timed: Callable[[str], Any]) -> None:
        self.cfg = cfg
        self.nds = cfg.NDS
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.folder = Path(cfg.NDS.WORK_DIR or Path(cfg.OUTPUT_DIR) / "nds")
        self.work = WorkFolder(self.folder, timed)
        self.source = SourceSteps(cfg, self.work)

    def check_settings(self) -> None:
        """Refuse settings of any step that are out of range; see :mod:`selector_settings`."""
        settings.check_settings(self.cfg)

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
        index = self.source.index()
        self._check_sizes(index)
        selector = self.nds.SELECTOR
        # Uniform and full draw every image alike, whatever the clusters: they need none.
        partition, scores, weights = Partition.whole(index), None, None
        if settings.by_objects(self.cfg):
            partition, weights = Partition.by_source(index), self._weights_by_objects(index)
        elif selector in CLUSTER_SELECTORS:
            partition = self.source.partition(index)
            scores = self._scores(index, partition)
        elif selector in IMAGE_SELECTORS:
            partition, weights = Partition.by_source(index), self._image_weights(index)
        return Weighed(index, partition, scores, weights)

    def _check_sizes(self, index: SourceIndex) -> None:
        """What only the index can tell, before experts are trained."""
        config = settings.selection_config(self.cfg)
        if config.needs_budget:
            resolve_budget(len(index), config.count, config.share)
        if self.nds.SELECTOR in CLUSTER_SELECTORS:
            check_num_clusters(self.nds.PARTITION.NUM_CLUSTERS, len(index))
        mapping = self.nds.SOURCE.LABEL_MAPPING
        classes = (
            selection_label_space(self.nds.SOURCE.DATASETS, mapping, partial=False).classes
            if mapping
            else index.classes
        )
        check_shared_classes(classes, dataset_classes(self.cfg.DATASETS.TRAIN[0]), self.cfg)

    @functools.cached_property
    def target(self) -> SourceIndex:
        """The client's images, or the crops of their objects."""
        index = target_index(self.cfg)
        if not settings.by_objects(self.cfg):
            return index
        return object_index(index, target_datasets(self.cfg), settings.object_config(self.cfg))

    def _weights_by_objects(self, images: SourceIndex) -> ImageWeights:
        """The same steps on object crops; an image's weight comes from its objects."""
        objects = self.source.objects(images)
        parent = parents(objects, images)
        if self.nds.SELECTOR in IMAGE_SELECTORS:
            found = self._image_weights(objects)
            p, cost, details = found.p, found.cost, dict(found.details)
        else:
            partition = self.source.partition(objects)
            scores = self._scores(objects, partition)
            weights = selector_weights(settings.selection_config(self.cfg), partition.sizes, scores)
            p, cost = image_probabilities(weights, partition.cluster), scores.cost
            details = {
                "metric": scores.metric, "z": list(scores.z), "w": weights.tolist(),
                "sizes": partition.sizes.tolist(), "expert_set": scores.expert_set,
            }  # fmt: skip
        pool = self.nds.OBJECTS.POOL
        pooled = pool_objects(p, parent, len(images), pool)
        details |= {"unit": settings.OBJECT, "objects": len(objects), "pool": pool}
        selector, identities = self.nds.SELECTOR, images.table.select(["source", "image_id"])
        return ImageWeights(
            pooled / pooled.sum(), identities, selector, selector in IMAGE_SELECTORS, cost, details
        )

    def _experts(self, index: SourceIndex, partition: Partition) -> ExpertSet:
        config = settings.expert_config(self.cfg)
        key = experts_key(index, partition, config)
        folder = self.folder / f"experts-{key[:10]}"
        self.work.paths["experts"] = str(folder)
        # Decided before anybody writes, so that all processes take the same way.
        complete = bool(comm.all_gather(is_complete(folder, key))[0])
        if complete:
            logger.info("experts: kept %s", folder)
            return ExpertSet.load(folder)
        if config.shared_steps:
            shared = self.source.shared(index) / SHARED
            if comm.is_main_process() and not (folder / SHARED).exists():
                with open(shared, "rb") as source, atomic_write(folder / SHARED) as target:
                    shutil.copyfileobj(source, target)
        comm.synchronize()
        with self.work.timed("experts"):
            rank, world_size = comm.get_rank(), comm.get_world_size()
            train_cluster_experts(
                index, partition, config, folder, rank=rank, world_size=world_size, device=self.device
            )
            comm.synchronize()
            if comm.is_main_process():
                write_manifest(index, partition, config, folder)
            comm.synchronize()
        return ExpertSet.load(folder)

    def _gate(self, index: SourceIndex, partition: Partition) -> Gate:
        config = settings.gate_config(self.cfg)
        key = content_hash(["gate", self.source.features_key(index), partition.hash, asdict(config)])

        def make(folder: Path) -> None:
            network, features = self.source.feature_network(index), self.source.features(index)
            train_gate(index, partition, network, features, self.nds.EXPERTS.CROP_SIZE, config, folder)

        return Gate.load(self.work.subfolder("gate", key, make))

    def _scores(self, index: SourceIndex, partition: Partition) -> Scores:
        target = agreed(lambda: self.target.hash)
        if self.nds.SELECTOR == "gate":
            gate = self._gate(index, partition)
            where = settings.target_config(self.cfg)
            key = content_hash([SCORES_KIND, gate.hash, target, where.max_images, where.seed])

            def make_gate_scores(path: Path) -> None:
                score_gate(gate, self.target, where, self.device).save(path, key=key)

            return Scores.load(self.work.artefact("scores", SCORES_KIND, key, ".json", make_gate_scores))
        experts = self._experts(index, partition)
        config = settings.scoring_config(self.cfg)
        # Not the number of workers or the batch size, which change nothing, nor the metric: all are kept.
        decisive = [config.max_images, config.seed, config.precision, config.folds]
        key = content_hash([SCORES_KIND, experts.hash, partition.hash, target, decisive])

        def make(path: Path) -> None:
            score_experts(experts, self.target, config, device=self.device).save(path, key=key)

        scores = Scores.load(self.work.artefact("scores", SCORES_KIND, key, ".json", make))
        scores.check_matches(experts.hash, experts.clusters)
        scores = scores.with_metric(config.metric)
        if comm.is_main_process():
            warn_if_indistinct(scores)
        return scores

    def _image_weights(self, index: SourceIndex) -> ImageWeights:
        """Weights of the rows of an index, images or objects, by an image selector."""
        selector = settings.image_selector(self.cfg)
        where = settings.target_config(self.cfg)
        looked_at: list[Any] = []
        if selector.needs_features:
            seen = agreed(lambda: self.target.hash)
            looked_at = [self.source.features_key(index), seen, where.max_images, where.seed]
        key = content_hash([WEIGHTS_KIND, selector.name, settings_of(selector), index.hash, looked_at])

        def make(path: Path) -> None:
            evidence = self.evidence(index) if selector.needs_features else Evidence(index)
            weigh_images(selector, evidence).save(path, key)

        if selector.needs_features:
            self.source.prepare_features(index)
        return ImageWeights.load(self.work.artefact("image_weights", WEIGHTS_KIND, key, ".parquet", make))

    def evidence(self, index: SourceIndex) -> Evidence:
        """Features of both sides for an image selector; of one process, the network must be there."""
        network, crop = self.source.feature_network(index), self.nds.EXPERTS.CROP_SIZE
        seen = target_features(network, self.target, crop, settings.target_config(self.cfg), self.device)
        return Evidence(index, self.source.features(index), seen)

    def rescore(self, iteration: int) -> npt.NDArray[np.float64]:
        """w from scores on the target's images as they are now, another draw of them each time."""
        experts = ExpertSet.load(self.work.paths["experts"])
        config = settings.scoring_config(self.cfg, seed=iteration)
        scores = score_experts(experts, target_index(self.cfg), config, device=self.device)
        partition = Partition.load(self.work.paths["partition"])
        return selector_weights(settings.selection_config(self.cfg), partition.sizes, scores)

    def _selection(self, found: Weighed) -> tuple[Selection, Path, str]:
        index, partition, scores, weights = found.index, found.partition, found.scores, found.weights
        config = settings.selection_config(self.cfg)
        scored = [scores.expert_set, scores.metric, list(scores.z)] if scores else None
        by = ["images", weights.hash] if weights else scored
        key = content_hash([SELECTION_KIND, index.hash, partition.hash, by, config.identity()])

        def make(path: Path) -> None:
            select(index, partition, config, scores, weights).save(path, key)

        path = self.work.artefact("selection", SELECTION_KIND, key, ".parquet", make)
        return Selection.load(path), path, key
