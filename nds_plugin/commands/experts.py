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
from dataclasses import fields

from nds_plugin.command_line import documented_parser, run
from nds_plugin.files.artifacts import check_writable

HELP = {
    "task": "rotation (needs no labels) or supervised (the source's image labels)",
    "crop_size": "side of the crops in pixels",
    "steps": "training steps of every expert",
    "batch_size": "crops per step; rotation makes four inputs of each",
    "base_lr": "highest learning rate",
    "weight_decay": "of SGD",
    "momentum": "of SGD",
    "seed": "of weights, order and crops",
    "init": "start from the shared network or from scratch",
    "shared_steps": "training steps of the shared network; 0 for none, with --init scratch",
    "precision": "auto, fp32, bf16 or fp16",
    "num_workers": "loader processes",
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the defaults are those of ExpertConfig."""
    from nds_plugin.experts.train_network import ExpertConfig

    parser = documented_parser(__doc__, "experts")
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--partition", required=True, help="partition of that index (Parquet)")
    parser.add_argument("--output", required=True, help="folder for the experts")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    for field in fields(ExpertConfig):
        if field.name in HELP:
            flag = "--" + field.name.replace("_", "-")
            text = f"{HELP[field.name]} (default {field.default})"
            parser.add_argument(flag, type=type(field.default), default=field.default, help=text)
    parser.add_argument("--no-amp", dest="amp", action="store_false", help="no mixed precision")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    args = parse_arguments(argv)
    from nds_plugin.experts.train_experts import ExpertConfig, train_experts
    from nds_plugin.images.networks import choose_device
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = ExpertConfig(**{field.name: getattr(args, field.name) for field in fields(ExpertConfig)})
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
