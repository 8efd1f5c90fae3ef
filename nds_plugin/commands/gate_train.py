"""Train a gate: a classifier of a partition's clusters on the features of one network, or its centroids.

    nds gate train --index output/index.parquet --partition output/partition.parquet --output output/gate

For the selector histogram, the clusters' centroids, with which there is nothing to train:

    nds gate train --index output/index.parquet --partition output/partition.parquet --selector histogram \\
        --output output/centroids

CPU-sized: both with --crop-size 128. --network and --crop-size should be those of the partition.

A client scores a gate by `nds gate score` with one forward pass an image, where heads take four and K networks 4 (K + 1).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.command_line import (
    add_device_arguments,
    add_settings,
    documented_parser,
    run,
    settings_from,
)
from nds_plugin.errors import CommandLineError
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.files.artifacts import check_writable
from nds_plugin.images.named_network import NamedNetwork
from nds_plugin.selection.selectors.gate import GateConfig, GateSelector
from nds_plugin.selection.selectors.histogram import Histogram


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "gate train")
    parser.add_argument("--index", required=True, help="index.parquet of the source")
    parser.add_argument("--partition", required=True, help="partition.parquet of that index")
    add_settings(parser, NamedNetwork)
    parser.add_argument("--output", required=True, help="folder to write the gate to")
    add_settings(parser, ExpertConfig, ("crop_size",))
    parser.add_argument(
        "--selector",
        default=GateSelector.name,
        choices=(GateSelector.name, Histogram.name),
        help="gate: z is the mean posterior of a fitted classifier; histogram: the share by nearest centroid",
    )
    add_settings(parser, GateConfig, optional=True)
    add_device_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    args = parse_arguments(argv)
    from nds_plugin.images.backbones import load_named
    from nds_plugin.images.networks import choose_device
    from nds_plugin.selection.selectors.base import Features
    from nds_plugin.selection.selectors.gate_network import train_gate
    from nds_plugin.source.feature_shards import remove_shards
    from nds_plugin.source.features import extract_features
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config, named = settings_from(args, GateConfig), settings_from(args, NamedNetwork)
    by_centroids = args.selector == Histogram.name
    if by_centroids and args.l2 is not None:
        raise CommandLineError("--l2 does nothing for the selector histogram: leave it out.")
    check_writable(args.output)  # before the work that would be lost
    index, partition = SourceIndex.load(args.index), Partition.load(args.partition)
    partition.check_matches(index)
    network = load_named(named)
    # Until the gate is written; a stopped run goes on from them.
    kept = Path(args.output) / "features-of-gate"
    values, readable = extract_features(
        index,
        network,
        args.crop_size,
        device=choose_device(args.device),
        num_workers=args.num_workers,
        cache_dir=kept,
    )
    gate = train_gate(
        index,
        partition,
        network,
        Features(values, readable),
        args.crop_size,
        None if by_centroids else config,
        args.output,
    )
    remove_shards(kept)
    accuracy, images = gate.manifest["train_accuracy"], gate.manifest["images"]
    print(f"{gate.num_clusters} clusters, {images} images, training accuracy {accuracy:.3f}")
    print(f"gate {gate.hash[:12]} in {args.output}")


if __name__ == "__main__":
    run(main)
