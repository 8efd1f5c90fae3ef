"""Train the experts of a partition: one ResNet-18 per cluster.

    nds experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --device cuda

CPU-sized:

    nds experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --crop-size 64 --steps 60 --shared-steps 100 --batch-size 16

Experts that are there and still valid are kept, so a run that was stopped goes on when started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nds_plugin.command_line import add_settings, documented_parser, run, settings_from
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.files.artifacts import check_writable


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "experts")
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--partition", required=True, help="partition of that index (Parquet)")
    parser.add_argument("--output", required=True, help="folder for the experts")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    add_settings(parser, ExpertConfig)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    args = parse_arguments(argv)
    from nds_plugin.experts.train_experts import train_experts
    from nds_plugin.images.networks import choose_device
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = settings_from(args, ExpertConfig)
    check_writable(args.output)  # before the work that would be lost
    index = SourceIndex.load(args.index)
    partition = Partition.load(args.partition)
    experts = train_experts(index, partition, config, args.output, device=choose_device(args.device))
    for entry in experts.manifest["experts"]:
        print(
            f"cluster {entry['cluster']:4d}: {entry['images']} images, accuracy {entry['train_accuracy']:.3f}"
        )
    print(f"expert set {experts.hash[:12]} in {args.output}")


if __name__ == "__main__":
    run(main)
