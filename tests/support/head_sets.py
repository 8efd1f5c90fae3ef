"""A set of head experts for the parts that a test's store was published from."""

from __future__ import annotations

from pathlib import Path

from service_demo import parts_of

from nds_plugin.experts.settings import HeadConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.images.backbones import load_feature_network
from nds_plugin.images.networks import build_network
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


def head_parts(store: Path, folder: Path) -> dict[str, Path]:
    """Index, partition and notes of a store, with heads on a random ResNet-18 in ``folder`` as its experts."""
    parts = parts_of(store)
    index, partition = SourceIndex.load(parts["index"]), Partition.load(parts["partition"])
    network = load_feature_network(shared_state=build_network(4).state_dict())
    train_heads(index, partition, network, HeadConfig(crop_size=32), folder, progress=False)
    return {**parts, "experts": folder}
