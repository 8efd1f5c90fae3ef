"""The selecting half of the main job: index, partition, experts, scores, selection.

Each step leaves one artefact in the work folder, named by the hash of what it was made from, and
is skipped where that artefact is there and whole. Runs that share the folder share the artefacts.
"""

from __future__ import annotations

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

from nds_plugin.artifacts import atomic_write, content_hash, file_hash, is_valid
from nds_plugin.backbones import load_feature_network
from nds_plugin.d2.checks import check_shared_classes
from nds_plugin.d2.fingerprints import dataset_fingerprint, image_root
from nds_plugin.d2.registration import check_registered, dataset_classes, index_dataset
from nds_plugin.d2.selection_log import log_selection, warn_if_indistinct
from nds_plugin.d2.subset import selection_label_space
from nds_plugin.d2.training import finetune_config
from nds_plugin.datasets.folder import check_files
from nds_plugin.errors import NDSError
from nds_plugin.expert_manifest import SHARED
from nds_plugin.expert_set import ExpertSet, load_network
from nds_plugin.experts import (
    ExpertConfig,
    experts_key,
    is_complete,
    prepare_shared,
    train_cluster_experts,
    write_manifest,
)
from nds_plugin.features import extract_features
from nds_plugin.index import KIND as INDEX_KIND
from nds_plugin.index import SourceIndex
from nds_plugin.partition import KIND as PARTITION_KIND
from nds_plugin.partition import Partition, PartitionConfig, check_num_clusters, partition_by_features
from nds_plugin.sampling import check_budget, resolve_budget
from nds_plugin.scores import KIND as SCORES_KIND
from nds_plugin.scores import Scores
from nds_plugin.scoring import ScoringConfig, score_experts
from nds_plugin.selection import KIND as SELECTION_KIND
from nds_plugin.selection import (
    Selection,
    SelectionConfig,
    select,
    selector_weights,
)

logger = logging.getLogger(__name__)

_FILES_CHECKED = 20_000  # of the joined source; an image found missing later is replaced by the loader


@dataclass(frozen=True)
class Selected:
    """What the selecting half leaves behind.

    Attributes:
        selection, path, key: the selection and where it is.
        index, partition: of the source.
        scores: the client's, None for selectors that need none.
        paths: every artefact by name, for the report.
    """

    selection: Selection
    path: Path
    key: str
    index: SourceIndex
    partition: Partition
    scores: Scores | None
    paths: dict[str, str]


class SelectionSteps:
    """The steps of one config; every process of a job calls :meth:`run` together."""

    def __init__(self, cfg: CN, timed: Callable[[str], Any]) -> None:
        self.cfg = cfg
        self.nds = cfg.NDS
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.folder = Path(cfg.NDS.WORK_DIR or Path(cfg.OUTPUT_DIR) / "nds")
        self._timed = timed
        self.paths: dict[str, str] = {}

    def run(self) -> Selected:
        """Make what is missing of the artefacts, the selection last.

        Raises:
            NDSError: bad input; finished steps are kept.
        """
        index = self._index()
        self._check_sizes(index)
        # Uniform and full draw every image alike, whatever the clusters: they need none.
        needs_experts = self.nds.SELECTOR == "nds"
        partition = self._partition(index) if needs_experts else Partition.whole(index)
        scores = self._scores(index, partition) if needs_experts else None
        selection, path, key = self._selection(index, partition, scores)
        log_selection(selection, index, partition)
        return Selected(selection, path, key, index, partition, scores, self.paths)

    def check_settings(self) -> None:
        """Refuse numbers and names of any step that are out of range, before the first one runs.

        Raises:
            NDSError: see the configs of the steps.
        """
        if not self.nds.SOURCE.DATASETS:
            raise NDSError(
                "NDS.SOURCE.DATASETS is empty: name at least one registered dataset to select from."
            )
        config = self._selection_config()
        if config.needs_budget:
            check_budget(config.count, config.share)
        if self.nds.SELECTOR == "nds":
            self._partition_config()
            self._expert_config()
            self._scoring_config()
            weights = self.nds.PARTITION.WEIGHTS
            if not weights and not self.nds.EXPERTS.SHARED_STEPS:
                raise NDSError(
                    "no network for the features of the partition: set NDS.PARTITION.WEIGHTS to a checkpoint, or "
                    "NDS.EXPERTS.SHARED_STEPS to 1 or more to train one."
                )
            if weights and not Path(weights).is_file():
                raise NDSError(f"NDS.PARTITION.WEIGHTS: no such file: {weights}.")

    def _check_sizes(self, index: SourceIndex) -> None:
        """What only the index can tell, before experts are trained."""
        config = self._selection_config()
        if config.needs_budget:
            resolve_budget(len(index), config.count, config.share)
        if self.nds.SELECTOR == "nds":
            check_num_clusters(self.nds.PARTITION.NUM_CLUSTERS, len(index))
        mapping = self.nds.SOURCE.LABEL_MAPPING
        classes = (
            selection_label_space(self.nds.SOURCE.DATASETS, mapping, partial=False).classes
            if mapping
            else index.classes
        )
        check_shared_classes(classes, dataset_classes(self.cfg.DATASETS.TRAIN[0]), self.cfg)

    def _artefact(self, name: str, kind: str, key: str, suffix: str, make: Callable[[Path], None]) -> Path:
        """The path of an artefact; the main process makes it where it is missing, all wait for it."""
        path = self.folder / f"{name}-{key[:10]}{suffix}"
        self.paths[name] = str(path)
        if comm.is_main_process():
            if is_valid(path, kind, key):
                logger.info("%s: kept %s", name, path)
            else:
                with self._timed(name):
                    make(path)
                logger.info("%s: wrote %s", name, path)
        comm.synchronize()
        return path

    def _index(self) -> SourceIndex:
        names = list(self.nds.SOURCE.DATASETS)
        check_registered(names)
        annotated_only = self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS

        def compute_key() -> str:
            # The folders too: an index holds the paths of its images.
            data = [[name, dataset_fingerprint(name), image_root(name)] for name in names]
            return content_hash([INDEX_KIND, data, annotated_only])

        # By the main process alone: every process would parse the same large annotation files.
        key = agreed(compute_key)

        def make(path: Path) -> None:
            index = SourceIndex.join([index_dataset(name) for name in names])
            if annotated_only:
                # What the loader would leave out must not use up the budget.
                everything, index = len(index), index.labelled()
                logger.info("index: %d of %d images have annotations", len(index), everything)
            missing = check_files(index, sample=_FILES_CHECKED)
            allowed = int(self.nds.LOADER.MAX_UNREADABLE * min(len(index), _FILES_CHECKED))
            if len(missing) > allowed:
                raise NDSError(
                    f"{len(missing)} image files of the source are missing, first {missing[0]}: "
                    f"NDS.LOADER.MAX_UNREADABLE allows {allowed}; check DETECTRON2_DATASETS."
                )
            index.save(path, key)

        return SourceIndex.load(self._artefact("index", INDEX_KIND, key, ".parquet", make))

    def _expert_config(self) -> ExpertConfig:
        node = self.nds.EXPERTS
        return ExpertConfig(
            task=node.TASK,
            init=node.INIT,
            crop_size=node.CROP_SIZE,
            steps=node.STEPS,
            shared_steps=node.SHARED_STEPS,
            batch_size=node.BATCH_SIZE,
            base_lr=node.BASE_LR,
            seed=node.SEED,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )

    def _shared_folder(self, index: SourceIndex) -> Path:
        config = self._expert_config()
        folder = self.folder / f"shared-{content_hash([index.hash, config.shared_identity()])[:10]}"
        if comm.is_main_process():
            with self._timed("shared"):
                prepare_shared(index, config, folder, device=self.device)
        comm.synchronize()
        return folder

    def _partition_config(self) -> PartitionConfig:
        node = self.nds.PARTITION
        return PartitionConfig(
            method=node.METHOD, num_clusters=node.NUM_CLUSTERS, min_size=node.MIN_SIZE, seed=node.SEED
        )

    def _partition(self, index: SourceIndex) -> Partition:
        node, config = self.nds.PARTITION, self._partition_config()
        if node.WEIGHTS:
            network: Any = file_hash(node.WEIGHTS)
        else:
            shared = self._shared_folder(index) / SHARED
            network = self._expert_config().shared_identity()
        crop = self.nds.EXPERTS.CROP_SIZE
        features_key = content_hash(["features", index.hash, network, crop])
        key = content_hash([PARTITION_KIND, features_key, config.hash])

        def make(path: Path) -> None:
            feature_network = (
                load_feature_network(node.WEIGHTS)
                if node.WEIGHTS
                else load_feature_network(None, shared_state=load_network(shared).state_dict())
            )
            features, readable = extract_features(
                index,
                feature_network,
                crop,
                device=self.device,
                num_workers=self.cfg.DATALOADER.NUM_WORKERS,
                cache_dir=self.folder / f"features-{features_key[:10]}",
            )
            partition_by_features(index, features, readable, config).save(path, key)

        partition = Partition.load(self._artefact("partition", PARTITION_KIND, key, ".parquet", make))
        partition.check_matches(index)
        return partition

    def _experts(self, index: SourceIndex, partition: Partition) -> ExpertSet:
        config = self._expert_config()
        key = experts_key(index, partition, config)
        folder = self.folder / f"experts-{key[:10]}"
        self.paths["experts"] = str(folder)
        # Decided before anybody writes, so that all processes take the same way.
        complete = bool(comm.all_gather(is_complete(folder, key))[0])
        if complete:
            logger.info("experts: kept %s", folder)
            return ExpertSet.load(folder)
        if config.shared_steps:
            shared = self._shared_folder(index) / SHARED
            if comm.is_main_process() and not (folder / SHARED).exists():
                with open(shared, "rb") as source, atomic_write(folder / SHARED) as target:
                    shutil.copyfileobj(source, target)
        comm.synchronize()
        with self._timed("experts"):
            train_cluster_experts(
                index,
                partition,
                config,
                folder,
                rank=comm.get_rank(),
                world_size=comm.get_world_size(),
                device=self.device,
            )
            comm.synchronize()
            if comm.is_main_process():
                write_manifest(index, partition, config, folder)
            comm.synchronize()
        return ExpertSet.load(folder)

    def _scores(self, index: SourceIndex, partition: Partition) -> Scores:
        experts = self._experts(index, partition)
        config = self._scoring_config()
        target = agreed(lambda: self.target_index().hash)
        # Not the number of workers or the batch size: they change nothing.
        decisive = [config.metric, config.max_images, config.seed, config.precision, config.folds]
        key = content_hash([SCORES_KIND, experts.hash, partition.hash, target, decisive])

        def make(path: Path) -> None:
            score_experts(experts, self.target_index(), config, device=self.device).save(path, key=key)

        scores = Scores.load(self._artefact("scores", SCORES_KIND, key, ".json", make))
        scores.check_matches(experts.hash, experts.clusters)
        if comm.is_main_process():
            warn_if_indistinct(scores)
        return scores

    def _scoring_config(self, seed: int = 0) -> ScoringConfig:
        return ScoringConfig(
            metric=self.nds.SCORING.METRIC,
            max_images=self.nds.SCORING.MAX_IMAGES or None,
            seed=seed,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )

    def target_index(self) -> SourceIndex:
        """The client's images: NDS.TARGET.DATASETS, else those it fine-tunes on."""
        names = list(self.nds.TARGET.DATASETS)
        if not names:
            names = list(finetune_config(self.cfg).DATASETS.TRAIN)
        check_registered(names)
        return SourceIndex.join([index_dataset(name) for name in names])

    def rescore(self, iteration: int) -> npt.NDArray[np.float64]:
        """w from scores on the target's images as they are now, another draw of them each time."""
        experts = ExpertSet.load(self.paths["experts"])
        scores = score_experts(
            experts, self.target_index(), self._scoring_config(seed=iteration), device=self.device
        )
        partition = Partition.load(self.paths["partition"])
        return selector_weights(self._selection_config(), partition.sizes, scores)

    def _selection_config(self) -> SelectionConfig:
        full = self.nds.SELECTOR == "full"
        return SelectionConfig(
            selector=self.nds.SELECTOR,
            mode=self.nds.MODE,
            count=0 if full else self.nds.BUDGET.IMAGES,
            share=0.0 if full else self.nds.BUDGET.SHARE,
            temperature=self.nds.TEMPERATURE,
            normalisation=self.nds.NORMALISATION,
            seed=self.nds.SEED,
        )

    def _selection(
        self, index: SourceIndex, partition: Partition, scores: Scores | None
    ) -> tuple[Selection, Path, str]:
        config = self._selection_config()
        scored = [scores.expert_set, scores.metric, list(scores.z)] if scores else None
        key = content_hash([SELECTION_KIND, index.hash, partition.hash, scored, asdict(config)])

        def make(path: Path) -> None:
            select(index, partition, config, scores).save(path, key)

        path = self._artefact("selection", SELECTION_KIND, key, ".parquet", make)
        return Selection.load(path), path, key


def agreed(compute: Callable[[], str]) -> str:
    """The main process's result, on all processes."""
    value = compute() if comm.is_main_process() else ""
    comm.synchronize()  # waits as long as the job may; a gather would give up after 30 minutes
    result: str = comm.all_gather(value)[0]
    return result
