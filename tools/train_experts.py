#!/usr/bin/env python
"""Train the experts of a partition: a linear head per cluster on one frozen network, or a ResNet-18 per cluster.

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --kind head --network package:efficientnet-lite0 --crop-size 128

The paper's, a ResNet-18 per cluster:

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --device cuda

CPU-sized:

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --crop-size 64 --steps 60 --shared-steps 100 --batch-size 16

Experts that are there and still valid are kept, so a run that was stopped goes on when started again.
"""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import Any

from nds_plugin.command_line import add_network_arguments, documented_parser, run
from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import EXPERT_KINDS, HEAD, NETWORK
from nds_plugin.files.artifacts import check_writable

HELP = {
    "task": "rotation (needs no labels) or supervised (the source's image labels; kind network)",
    "crop_size": "side of the crops in pixels",
    "batch_size": "crops per step, rotation makes four inputs of each; of kind head, images a worker decodes",
    "seed": "of weights, order and crops; of kind head, of the draw of --share",
    "num_workers": "loader processes",
    "steps": "training steps of every expert",
    "base_lr": "highest learning rate",
    "weight_decay": "of SGD",
    "momentum": "of SGD",
    "init": "start from the shared network or from scratch",
    "shared_steps": "training steps of the shared network; 0 for none, with --init scratch",
    "precision": "auto, fp32, bf16 or fp16",
    "c": "inverse strength of the regularisation",
    "share": "of each cluster's images to fit its head on",
}


def parse_arguments() -> argparse.Namespace:
    """The command line; the defaults are those of the two configs."""
    parser = documented_parser(__doc__)
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--partition", required=True, help="partition of that index (Parquet)")
    parser.add_argument("--output", required=True, help="folder for the experts")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    parser.add_argument("--kind", default=NETWORK, choices=EXPERT_KINDS, help="default network")
    both = parser.add_argument_group("experts")
    groups = {kind: parser.add_argument_group(f"experts of kind {kind}") for kind in EXPERT_KINDS}
    for name, text in HELP.items():
        own = {kind: field for kind, found in _fields().items() if (field := found.get(name)) is not None}
        told = sorted({str(field.default) for field in own.values()})
        group = both if len(own) > 1 else groups[next(iter(own))]
        flag, kind = "--" + name.replace("_", "-"), type(next(iter(own.values())).default)
        group.add_argument(flag, type=kind, help=f"{text} (default {' or '.join(told)})")
    groups[NETWORK].add_argument(
        "--no-amp", dest="amp", action="store_false", default=None, help="no mixed precision"
    )
    add_network_arguments(groups[HEAD])
    return parser.parse_args()


def _fields() -> dict[str, dict[str, Field[Any]]]:
    """Fields of the config of each kind."""
    from nds_plugin.experts.train_heads import HeadConfig
    from nds_plugin.experts.train_network import ExpertConfig

    return {
        kind: {field.name: field for field in fields(config)}
        for kind, config in ((NETWORK, ExpertConfig), (HEAD, HeadConfig))
    }


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the experts; refused where it is of the other kind."""
    given = {name: value for name in (*HELP, "amp") if (value := getattr(args, name)) is not None}
    if args.kind == HEAD and not (args.network or args.weights):
        raise NDSError("--kind head needs --network: the frozen network that the heads stand on.")
    other = HEAD if args.kind == NETWORK else NETWORK
    strange = [name for name in given if name not in _fields()[args.kind]]
    strange += [name for name in ("network", "weights") if args.kind == NETWORK and getattr(args, name)]
    if strange:
        flag = "no-amp" if strange[0] == "amp" else strange[0].replace("_", "-")
        raise NDSError(f"--{flag} is of experts of kind {other!r}: leave it out, or give --kind {other}.")
    return given


def main() -> None:
    """Parse the command line and train."""
    args = parse_arguments()
    given = _given(args)
    from nds_plugin.experts.train_experts import ExpertConfig, train_experts
    from nds_plugin.experts.train_heads import HeadConfig, train_heads
    from nds_plugin.images.backbones import load_feature_network
    from nds_plugin.images.networks import choose_device
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = HeadConfig(**given) if args.kind == HEAD else ExpertConfig(**given)
    device = choose_device(args.device)
    check_writable(args.output)  # before the work that would be lost
    index = SourceIndex.load(args.index)
    partition = Partition.load(args.partition)
    if isinstance(config, HeadConfig):
        network = load_feature_network(args.weights, network=args.network)
        experts = train_heads(index, partition, network, config, args.output, device=device)
    else:
        experts = train_experts(index, partition, config, args.output, device=device)
    for entry in experts.manifest["experts"]:
        print(
            f"cluster {entry['cluster']:4d}: {entry['images']} images, accuracy {entry['train_accuracy']:.3f}"
        )
    print(f"expert set {experts.hash[:12]} in {args.output}")


if __name__ == "__main__":
    run(main)
