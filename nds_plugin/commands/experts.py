"""Train the experts of a partition: a linear head per cluster on one frozen network, or a ResNet-18 per cluster.

    nds experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts

The paper's, a ResNet-18 per cluster:

    nds experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --kind network --device cuda

The same CPU-sized:

    nds experts --index output/index.parquet --partition output/partition.parquet --kind network \\
        --output output/experts --crop-size 64 --steps 60 --shared-steps 100 --batch-size 16

Experts that are there and still valid are kept, so a run that was stopped goes on when started again.
The configs for GPUs train longer than the defaults here: --steps 5000 --shared-steps 40000 --batch-size 64.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nds_plugin.command_line import (
    add_device_argument,
    add_settings,
    documented_parser,
    run,
    settings_from,
)
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.opening import open_executor
from nds_plugin.errors import CommandLineError
from nds_plugin.experts.manifest import HEAD, NETWORK
from nds_plugin.experts.settings import EXPERT_CONFIGS, ExpertConfig, ExpertKind, HeadConfig
from nds_plugin.files.artifacts import check_writable
from nds_plugin.files.locking import turn_in
from nds_plugin.settings import settings_of


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line: options of both kinds, of which a kind has its own defaults, and those of one."""
    parser = documented_parser(__doc__, "experts")
    parser.add_argument("--index", required=True, help="index.parquet of the source")
    parser.add_argument("--partition", required=True, help="partition.parquet of that index")
    parser.add_argument("--output", required=True, help="folder to write the experts to")
    add_device_argument(parser)
    add_settings(parser.add_argument_group("where it runs"), EngineConfig)
    add_settings(parser, ExpertKind)
    names = {kind: {item.name for item in settings_of(config)} for kind, config in EXPERT_CONFIGS.items()}
    both = parser.add_argument_group(
        "experts",
        "meanings and defaults of heads; those of networks are under NDS.EXPERTS in docs/configuration.md",
    )
    add_settings(both, HeadConfig, names[NETWORK] & names[HEAD], optional=True)
    networks = parser.add_argument_group("experts of kind network")
    add_settings(networks, ExpertConfig, names[NETWORK] - names[HEAD], optional=True)
    heads = parser.add_argument_group("experts of kind head")
    add_settings(heads, HeadConfig, names[HEAD] - names[NETWORK], optional=True)
    return parser.parse_args(argv)


def refuse_foreign(args: argparse.Namespace) -> None:
    """Refuse options that the kind of experts does not look at.

    Raises:
        NDSError: one is given.
    """
    kind = settings_from(args, ExpertKind).kind
    own = {item.name for item in settings_of(EXPERT_CONFIGS[kind])}
    for other in EXPERT_CONFIGS.keys() - {kind}:
        given = [
            item.flag
            for item in settings_of(EXPERT_CONFIGS[other])
            if item.name not in own and getattr(args, item.name) is not None
        ]
        if given:
            raise CommandLineError(
                f"{given[0]} is of experts of kind {other!r}: leave it out, or give --kind {other}."
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    args = parse_arguments(argv)
    refuse_foreign(args)
    from nds_plugin.experts.train_experts import train_experts
    from nds_plugin.experts.train_heads import train_heads
    from nds_plugin.experts.train_network import pretrained_trunk
    from nds_plugin.images.backbones import load_named
    from nds_plugin.images.networks import choose_device
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = settings_from(args, EXPERT_CONFIGS[args.kind])
    engine = settings_from(args, EngineConfig)
    executor = open_executor(engine, str(choose_device(args.device)))
    check_writable(args.output)  # before the work that would be lost
    if isinstance(config, ExpertConfig) and config.pretrained:
        pretrained_trunk(config.pretrained)
    index = SourceIndex.load(args.index)
    partition = Partition.load(args.partition)
    with turn_in(args.output):
        if isinstance(config, HeadConfig):
            network, size = load_named(config), engine.whole_batches
            experts = train_heads(
                index, partition, network, config, args.output, executor=executor, shard_size=size
            )
        else:
            experts = train_experts(index, partition, config, args.output, executor=executor)
    for entry in experts.manifest["experts"]:
        print(
            f"cluster {entry['cluster']:4d}: {entry['images']} images, accuracy {entry['train_accuracy']:.3f}"
        )
    print(f"expert set {experts.hash[:12]} in {args.output}")


if __name__ == "__main__":
    run(main)
