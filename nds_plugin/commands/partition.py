"""Cut a source of images into K clusters.

COCO, with the features of EfficientNet-Lite0 and its ImageNet weights:

    nds partition --coco annotations/instances_train2017.json train2017 \\
        --num-clusters 50 --output output/coco

CPU-sized, on a folder of photographs:

    nds partition --folder photos --num-clusters 8 --crop-size 128 --output output/photos

With the features of a network you have:

    nds partition --folder photos --num-clusters 8 --weights resnet50.pth --output output/photos

As the paper, with features of a rotation network that is trained on the source:

    nds partition --folder photos --num-clusters 8 --shared-steps 40000 --shared-batch 64 --output output/photos

Writes index.parquet and partition.parquet into --output, and with --shared-steps experts/shared.safetensors. Files
that are there and still valid are kept.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nds_plugin import command_line
from nds_plugin.commands.hosts import files_host
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.opening import open_executor
from nds_plugin.errors import CommandLineError
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.files.artifacts import is_valid
from nds_plugin.files.locking import turn_in
from nds_plugin.images.named_network import NamedNetwork
from nds_plugin.pipeline import naming
from nds_plugin.settings import named, settings_of
from nds_plugin.source.index import KIND as INDEX_KIND
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import KIND as PARTITION_KIND
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_summary import summarise, summary_table
from nds_plugin.source.partitioning import (
    PartitionConfig,
    check_num_clusters,
    partition_key,
)

if TYPE_CHECKING:
    from nds_plugin.engine.executor import Executor
    from nds_plugin.images.backbones import FeatureNetwork

logger = logging.getLogger("nds_plugin")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_line.documented_parser(__doc__, "partition")
    naming.add_source_arguments(parser)
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="keep images without an annotated object, for DATALOADER.FILTER_EMPTY_ANNOTATIONS False (a source "
        "without any annotation, such as a folder, always keeps its images)",
    )
    group = parser.add_argument_group("clusters")
    own = {item.name for item in settings_of(PartitionConfig)} - {
        item.name for item in settings_of(NamedNetwork)
    }
    command_line.add_settings(group, PartitionConfig, own)
    group = parser.add_argument_group("features")
    command_line.add_settings(group, NamedNetwork)
    command_line.add_settings(group, ExpertConfig, ("crop_size",))
    group.add_argument(
        "--shared-steps", type=int, help="train a shared rotation network of so many steps for the features"
    )
    shared_batch = named(ExpertConfig, "batch_size")
    group.add_argument(
        "--shared-batch",
        type=int,
        help=f"{shared_batch.help}, for the shared network (default: {shared_batch.default})",
    )
    group.add_argument(
        "--batch-size", type=int, default=128, help="images that a worker decodes at a time (default: 128)"
    )
    command_line.add_device_arguments(group)
    command_line.add_settings(parser.add_argument_group("where it runs"), EngineConfig)
    parser.add_argument("--output", required=True, help="folder to write index and partition to")
    return parser.parse_args(argv)


def source_index(args: argparse.Namespace) -> SourceIndex:
    """The images of the sources, as the main job would index them."""
    everything = naming.index_from_arguments(args, files_host())
    if args.keep_empty:
        return everything
    index = everything.annotated()
    if len(index) < len(everything):
        logger.info(
            "%d of %d images have no annotated object and are left out, as training leaves them out "
            "(DATALOADER.FILTER_EMPTY_ANNOTATIONS): --keep-empty keeps them.",
            len(everything) - len(index),
            len(everything),
        )
    return index


def named_network(args: argparse.Namespace) -> FeatureNetwork | None:
    """The network of --network and --weights or the default one, found to take the crops; None with --shared-steps."""
    given = command_line.settings_from(args, NamedNetwork)
    _check_shared(args, given)
    if args.shared_steps is not None:
        return None
    from nds_plugin.images.backbones import load_named

    network = load_named(given)
    network.dimension(args.crop_size)
    return network


def _check_shared(args: argparse.Namespace, given: NamedNetwork) -> None:
    """Refuse options of a shared network that none is trained by, or beside another network."""
    if args.shared_steps is None:
        if args.shared_batch is not None:
            raise CommandLineError(
                "--shared-batch is of a shared network: give --shared-steps, too, or leave it out."
            )
    elif args.shared_steps < 1:
        raise CommandLineError(
            f"--shared-steps must be 1 or more, got {args.shared_steps}: leave it out for the default network."
        )
    elif given.is_named:
        raise CommandLineError(
            "--shared-steps trains a network for the features: leave it out, or --network and --weights."
        )


def shared_network(args: argparse.Namespace, index: SourceIndex, executor: Executor) -> FeatureNetwork:
    """The shared rotation network, trained now if need be."""
    from nds_plugin.experts.train_experts import prepare_shared
    from nds_plugin.images.backbones import load_feature_network

    batch = named(ExpertConfig, "batch_size").default if args.shared_batch is None else args.shared_batch
    config = command_line.settings_from(args, ExpertConfig, batch_size=batch)
    return load_feature_network(
        prepare_shared(index, config, Path(args.output) / "experts", executor=executor)
    )


def make_partition(
    args: argparse.Namespace, index: SourceIndex, named_one: FeatureNetwork | None, executor: Executor
) -> Partition:
    """Network, features, partition; what is there and valid is kept."""
    from nds_plugin.source.extraction import Extraction
    from nds_plugin.source.features import features_key
    from nds_plugin.source.two_passes import TwoPasses, clean, has_features

    config = command_line.settings_from(args, PartitionConfig)
    engine, output = command_line.settings_from(args, EngineConfig), Path(args.output)
    if not is_valid(output / "index.parquet", INDEX_KIND, index.hash):
        index.save(output / "index.parquet", index.hash)
    network = named_one or shared_network(args, index, executor)
    path = output / "partition.parquet"
    key = partition_key(features_key(index, network, args.crop_size), config, len(index))
    lacking = config.keep_features and not has_features(output / "partition")
    if is_valid(path, PARTITION_KIND, key) and not lacking:
        logger.info("%s is there and up to date", path)
        partition = Partition.load(path)
    else:
        how = Extraction(
            network, args.crop_size, executor.device, args.batch_size, executor.readers(args.num_workers)
        )
        passes = TwoPasses(
            config, how, executor, output / "partition", output / "features", engine.whole_batches
        )
        partition = passes.run(index, key)
        partition.save(path, key)
    clean(output / "partition")
    return partition


def main(argv: Sequence[str] | None = None) -> None:
    """Index and partition."""
    args = parse_arguments(argv)
    from nds_plugin.images.networks import choose_device

    config = command_line.settings_from(args, PartitionConfig)
    executor = open_executor(command_line.settings_from(args, EngineConfig), str(choose_device(args.device)))
    named_one = named_network(args)  # a mistake in its name is told before any work
    index = source_index(args)
    check_num_clusters(config.num_clusters, len(index))
    with turn_in(args.output):
        partition = make_partition(args, index, named_one, executor)
    logger.info("%d clusters:\n%s", partition.num_clusters, summary_table(summarise(partition, index)))


if __name__ == "__main__":
    command_line.run(main)
