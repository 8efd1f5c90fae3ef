"""The steps on the source's side: index, objects, shared network, features, partition."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nds_plugin.engine.executor import Executor
from nds_plugin.engine.opening import open_executor
from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import load_network
from nds_plugin.experts.manifest import SHARED
from nds_plugin.experts.settings import ExpertConfig, HeadConfig
from nds_plugin.experts.train_experts import prepare_shared
from nds_plugin.experts.train_network import pretrained_trunk
from nds_plugin.files.artifacts import content_hash, file_hash
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network, load_named
from nds_plugin.images.named_network import NamedNetwork, names_weights
from nds_plugin.pipeline.host import Host
from nds_plugin.pipeline.settings import PipelineSettings
from nds_plugin.pipeline.units import image_index, object_index
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.selection.selectors.base import Need
from nds_plugin.source.extraction import Extraction
from nds_plugin.source.feature_shards import FeatureShards
from nds_plugin.source.features import feature_shards, network_hash
from nds_plugin.source.folder import check_files
from nds_plugin.source.index import KIND as INDEX_KIND
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import KIND as PARTITION_KIND
from nds_plugin.source.partition import Partition
from nds_plugin.source.partitioning import partition_key
from nds_plugin.source.two_passes import TwoPasses, clean, has_features

logger = logging.getLogger(__name__)

_FILES_CHECKED = 20_000  # of the joined source; an image found missing later is replaced by the loader


class SourceSteps:
    """The steps of one job; its processes call them together unless a method says otherwise.

    Everything after the index works on any index, of images or of object crops.

    Args:
        settings: of all steps.
        host: whose datasets and processes they are.
        work: the folder of artefacts.
        device: where networks run.
    """

    def __init__(
        self, settings: PipelineSettings, host: Host, work: WorkFolder, device: torch.device
    ) -> None:
        self.settings = settings
        self.host = host
        self.work = work
        self.device = device
        self._loaded: dict[tuple[str, str], FeatureNetwork] = {}

    def of(self, datasets: tuple[str, ...], prefix: str) -> SourceSteps:
        """The same steps for other datasets; results tell of them under names with a prefix."""
        settings = dataclasses.replace(self.settings, sources=datasets)
        other = SourceSteps(settings, self.host, self.work.beside(prefix), self.device)
        other._loaded = self._loaded
        return other

    @functools.cached_property
    def executor(self) -> Executor:
        """Who does the passes over the source; a cluster is joined at the first step that asks."""
        return open_executor(self.settings.engine, str(self.device), self.host)

    def index(self) -> SourceIndex:
        """The images of the source."""
        annotated_only = self.settings.annotated_only
        # By the main process alone: every process would parse the same large annotation files.
        key = agreed(self.host, lambda: content_hash([INDEX_KIND, self._data(), annotated_only]))

        def make(path: Path) -> None:
            for name in self.settings.sources:
                self.host.dataset(name).check()
            index = image_index(self.host, self.settings.sources)
            if annotated_only:
                # What the loader would leave out must not use up the budget.
                if bare := index.bare_sources:
                    raise self._no_object(bare, int(np.isin(index.column("source"), bare).sum()))
                everything, index = len(index), index.annotated()
                logger.info("index: %d of %d images have annotations", len(index), everything)
            missing = check_files(index, sample=_FILES_CHECKED)
            allowed = int(self.settings.loader.max_unreadable * min(len(index), _FILES_CHECKED))
            if len(missing) > allowed:
                raise NDSError(
                    f"{len(missing)} image files of the source are missing, first {missing[0]}: "
                    f"NDS.LOADER.MAX_UNREADABLE allows {allowed}; check DETECTRON2_DATASETS."
                )
            index.save(path, key)

        return SourceIndex.load(self.work.artefact("index", INDEX_KIND, key, ".parquet", make))

    def objects(self, images: SourceIndex) -> SourceIndex:
        """Crops of the annotated objects of the source's images."""
        config = self.settings.objects
        decisive = {name: value for name, value in dataclasses.asdict(config).items() if name != "pool"}
        key = agreed(self.host, lambda: content_hash(["objects", self._data(), images.hash, decisive]))

        def make(path: Path) -> None:
            objects = object_index(self.host, images, self.settings.sources, config)
            logger.info("objects: %d crops of %d images", len(objects), len(images))
            objects.save(path, key)

        return SourceIndex.load(self.work.artefact("objects", INDEX_KIND, key, ".parquet", make))

    def named(self, network: NamedNetwork) -> FeatureNetwork:
        """A network that the settings name, loaded once."""
        name = (network.network, network.weights)
        if name not in self._loaded:
            self._loaded[name] = load_named(network)
        return self._loaded[name]

    def check_networks(self) -> None:
        """Load what the settings name, so that a mistake is told before any work; of one process."""
        experts = self.settings.experts
        heads_on = experts if isinstance(experts, HeadConfig) else None
        for network in (self.settings.feature_network, heads_on):
            if network:
                self.named(network).dimension(experts.crop_size)
        if isinstance(experts, ExpertConfig) and experts.pretrained:
            pretrained_trunk(experts.pretrained)

    def _shared_config(self) -> ExpertConfig:
        config = self.settings.experts
        assert isinstance(config, ExpertConfig), "head experts have no shared network"
        return config

    def _shared_folder(self, index: SourceIndex) -> Path:
        identity = self._shared_config().shared_identity()
        return self.work.folder / f"shared-{content_hash([index.hash, identity])[:10]}"

    def shared(self, index: SourceIndex) -> Path:
        """The folder of the shared network."""
        folder = self._shared_folder(index)
        with self.work.timed("shared"):
            prepare_shared(index, self._shared_config(), folder, executor=self.executor)
        return folder

    def features_key(self, index: SourceIndex) -> str:
        """Hash of what the features are made from; of the shared network its training, not yet its weights."""
        found: Any
        network = self.settings.feature_network
        if network is None:
            found = self._shared_config().shared_identity()
        elif network.file and (not network.network or names_weights(network.network)):
            found = file_hash(network.file)  # of a ResNet, which follows from its weights
        else:
            found = network_hash(self.named(network))
        return content_hash(["features", index.hash, found, self.settings.experts.crop_size])

    def prepare_features(self, index: SourceIndex) -> None:
        """Train the shared network where the features need it; all processes together."""
        if self.settings.feature_network is None:
            self.shared(index)

    def feature_network(self, index: SourceIndex) -> FeatureNetwork:
        """The network of the features, of one process; the shared one must be there."""
        if self.settings.feature_network:
            return self.named(self.settings.feature_network)
        state = load_network(self._shared_folder(index) / SHARED).state_dict()
        return load_feature_network(None, shared_state=state)

    def features(self, index: SourceIndex) -> FeatureShards:
        """Features of the rows of an index, in kept shards; all processes together."""
        self.prepare_features(index)
        size, folder = self.settings.engine.whole_batches, self._features_folder(index)
        return feature_shards(index, self._extraction(index), folder, size, executor=self.executor)

    def _extraction(self, index: SourceIndex) -> Extraction:
        """How features are computed."""
        experts, executor = self.settings.experts, self.executor
        network, readers = self.feature_network(index), executor.readers(experts.num_workers)
        return Extraction(network, experts.crop_size, executor.device, num_workers=readers)

    def _features_folder(self, index: SourceIndex) -> Path:
        return self.work.folder / f"features-{self.features_key(index)[:10]}"

    def partition(self, index: SourceIndex) -> Partition:
        """The source's clusters."""
        config = self.settings.partition
        self.prepare_features(index)
        key = partition_key(self.features_key(index), config, len(index))

        def make(path: Path) -> None:
            passes = self._two_passes(index, path)
            partition = passes.run(index, key)
            if self.host.rank == 0:
                partition.save(path, key)

        def lacks_features(path: Path) -> bool:
            return config.keep_features and not has_features(path.with_suffix(""))

        made = self.work.artefact(
            "partition", PARTITION_KIND, key, ".parquet", make, lacks_features, together=True
        )
        if self.host.rank == 0:
            clean(made.with_suffix(""))
        partition = Partition.load(made)
        partition.check_matches(index)
        return partition

    def _two_passes(self, index: SourceIndex, path: Path) -> TwoPasses:
        """How the partition ``path`` is made; its parts lie in a folder of its name."""
        return TwoPasses(
            self.settings.partition,
            self._extraction(index),
            self.executor,
            path.with_suffix(""),
            self._features_folder(index),
            self.settings.engine.whole_batches,
            all_features=Need.FEATURES in self.settings.selector.needs,
        )

    def _data(self) -> list[list[str]]:
        """What the datasets are made of. The folders too: an index holds the paths of its images."""
        found = {name: self.host.dataset(name) for name in self.settings.sources}
        return [[name, dataset.fingerprint(), dataset.image_folder()] for name, dataset in found.items()]

    def _no_object(self, names: list[str], images: int) -> NDSError:
        reasons = {name: self.host.dataset(name).why_no_object() for name in names}
        told = next(iter(reasons.values()))
        if len(names) > 1:
            told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        return NDSError(f"none of the {images} images of {', '.join(names)} has an annotated object: {told}.")
