#!/usr/bin/env python
"""Train a gate: a classifier of a partition's clusters on the features of one network.

    python tools/train_gate.py --index output/index.parquet --partition output/partition.parquet \\
        --network output/experts/shared.safetensors --output output/gate

CPU-sized: the same, with the --crop-size that the network was trained with.

A client scores a gate by tools/score_gate.py with one forward pass an image, where K experts take 4 K.
"""

from __future__ import annotations

import argparse

from nds_plugin.command_line import add_device_arguments, add_network_arguments, documented_parser, run
from nds_plugin.files.artifacts import check_writable


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--partition", required=True, help="partition of that index (Parquet)")
    add_network_arguments(parser, required=True)
    parser.add_argument("--output", required=True, help="folder for the gate")
    parser.add_argument("--crop-size", type=int, default=224, help="side of the crops (default 224)")
    parser.add_argument(
        "--l2", type=float, default=0.01, help="strength of the regularisation (default 0.01)"
    )
    add_device_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Parse the command line and train."""
    args = parse_arguments()
    from nds_plugin.images.backbones import load_feature_network
    from nds_plugin.images.networks import choose_device
    from nds_plugin.selection.selectors.base import Features
    from nds_plugin.selection.selectors.gate import GateConfig, train_gate
    from nds_plugin.source.features import extract_features
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = GateConfig(l2=args.l2)
    check_writable(args.output)  # before the work that would be lost
    index, partition = SourceIndex.load(args.index), Partition.load(args.partition)
    partition.check_matches(index)
    network = load_feature_network(args.weights, network=args.network)
    values, readable = extract_features(
        index, network, args.crop_size, device=choose_device(args.device), num_workers=args.num_workers
    )
    gate = train_gate(
        index, partition, network, Features(values, readable), args.crop_size, config, args.output
    )
    accuracy, images = gate.manifest["train_accuracy"], gate.manifest["images"]
    print(f"{gate.num_clusters} clusters, {images} images, training accuracy {accuracy:.3f}")
    print(f"gate {gate.hash[:12]} in {args.output}")


if __name__ == "__main__":
    run(main)
