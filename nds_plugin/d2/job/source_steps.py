"""The steps on the source's side: index, objects, shared network, features, partition."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode as CN
from detectron2.utils import comm

from nds_plugin.d2.data.fingerprints import dataset_fingerprint, image_root
from nds_plugin.d2.data.ground_truth import check_masks, why_no_object
from nds_plugin.d2.data.registration import check_registered, dataset_dicts, index_dataset
from nds_plugin.d2.job import selector_settings as settings
from nds_plugin.d2.job.units import object_index
from nds_plugin.d2.job.work_folder import WorkFolder, agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import load_network
from nds_plugin.experts.manifest import SHARED
from nds_plugin.experts.train_experts import prepare_shared
from nds_plugin.files.artifacts import content_hash, file_hash
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.selection.selectors.base import Features
from nds_plugin.source.features import extract_features
from nds_plugin.source.folder import check_files
from nds_plugin.source.index import KIND as INDEX_KIND
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import KIND as PARTITION_KIND
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import partition_by_features

logger = logging.getLogger(__name__)

_FILES_CHECKED = 20_000  # of the joined source; an image found missing later is replaced by the loader


class SourceSteps:
    """The steps of one config; every process of a job calls them together unless a method says otherwise.

    Everything after the index works on any index, of images or of object crops.
    """

    def __init__(self, cfg: CN, work: WorkFolder) -> None:
        self.cfg = cfg
        self.nds = cfg.NDS
        self.work = work
        self.device = torch.device(cfg.MODEL.DEVICE)

    def index(self) -> SourceIndex:
        """The images of the source."""
        names = list(self.nds.SOURCE.DATASETS)
        check_registered(names)
        annotated_only = self.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        # By the main process alone: every process would parse the same large annotation files.
        key = agreed(lambda: content_hash([INDEX_KIND, _data(names), annotated_only]))

        def make(path: Path) -> None:
            for name in names:
                check_masks(name)
            index = SourceIndex.join([index_dataset(name) for name in names])
            if annotated_only:
                # What the loader would leave out must not use up the budget.
                if bare := index.bare_sources:
                    raise _no_object(bare, int(np.isin(index.column("source"), bare).sum()))
                everything, index = len(index), index.annotated()
                logger.info("index: %d of %d images have annotations", len(index), everything)
            missing = check_files(index, sample=_FILES_CHECKED)
            allowed = int(self.nds.LOADER.MAX_UNREADABLE * min(len(index), _FILES_CHECKED))
            if len(missing) > allowed:
                raise NDSError(
                    f"{len(missing)} image files of the source are missing, first {missing[0]}: "
                    f"NDS.LOADER.MAX_UNREADABLE allows {allowed}; check DETECTRON2_DATASETS."
                )
            index.save(path, key)

        return SourceIndex.load(self.work.artefact("index", INDEX_KIND, key, ".parquet", make))

    def objects(self, images: SourceIndex) -> SourceIndex:
        """Crops of the annotated objects of the source's images."""
        names, config = list(self.nds.SOURCE.DATASETS), settings.object_config(self.cfg)
        decisive = {name: value for name, value in asdict(config).items() if name != "pool"}
        key = agreed(lambda: content_hash(["objects", _data(names), images.hash, decisive]))

        def make(path: Path) -> None:
            objects = object_index(images, names, config)
            logger.info("objects: %d crops of %d images", len(objects), len(images))
            objects.save(path, key)

        return SourceIndex.load(self.work.artefact("objects", INDEX_KIND, key, ".parquet", make))

    def _shared_folder(self, index: SourceIndex) -> Path:
        identity = settings.expert_config(self.cfg).shared_identity()
        return self.work.folder / f"shared-{content_hash([index.hash, identity])[:10]}"

    def shared(self, index: SourceIndex) -> Path:
        """The folder of the shared network."""
        config, folder = settings.expert_config(self.cfg), self._shared_folder(index)
        if comm.is_main_process():
            with self.work.timed("shared"):
                prepare_shared(index, config, folder, device=self.device)
        comm.synchronize()
        return folder

    def features_key(self, index: SourceIndex) -> str:
        """Hash of what the features are made from; the network's training, not yet its weights."""
        weights = self.nds.PARTITION.WEIGHTS
        network: Any = file_hash(weights) if weights else settings.expert_config(self.cfg).shared_identity()
        return content_hash(["features", index.hash, network, self.nds.EXPERTS.CROP_SIZE])

    def prepare_features(self, index: SourceIndex) -> None:
        """Train the shared network where the features need it; all processes together."""
        if not self.nds.PARTITION.WEIGHTS:
            self.shared(index)

    def feature_network(self, index: SourceIndex) -> FeatureNetwork:
        """The network of the features, of one process; the shared one must be there."""
        if self.nds.PARTITION.WEIGHTS:
            return load_feature_network(self.nds.PARTITION.WEIGHTS)
        state = load_network(self._shared_folder(index) / SHARED).state_dict()
        return load_feature_network(None, shared_state=state)

    def features(self, index: SourceIndex) -> Features:
        """Features of the rows of an index, kept in shards; of one process."""
        values, readable = extract_features(
            index,
            self.feature_network(index),
            self.nds.EXPERTS.CROP_SIZE,
            device=self.device,
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            cache_dir=self.work.folder / f"features-{self.features_key(index)[:10]}",
        )
        return Features(values, readable)

    def partition(self, index: SourceIndex) -> Partition:
        """The source's clusters."""
        config = settings.partition_config(self.cfg)
        self.prepare_features(index)
        key = content_hash([PARTITION_KIND, self.features_key(index), config.hash])

        def make(path: Path) -> None:
            features = self.features(index)
            partition_by_features(index, features.values, features.readable, config).save(path, key)

        partition = Partition.load(self.work.artefact("partition", PARTITION_KIND, key, ".parquet", make))
        partition.check_matches(index)
        return partition


def _data(names: list[str]) -> list[list[str]]:
    """What the datasets are made of. The folders too: an index holds the paths of its images."""
    return [[name, dataset_fingerprint(name), image_root(name)] for name in names]


def _no_object(names: list[str], images: int) -> NDSError:
    reasons = [why_no_object(dataset_dicts(name)) for name in names]
    told = reasons[0] if len(names) == 1 else "; ".join(f"{n}: {why}" for n, why in zip(names, reasons))
    return NDSError(f"none of the {images} images of {', '.join(names)} has an annotated object: {told}.")
