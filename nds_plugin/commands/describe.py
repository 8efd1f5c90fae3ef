"""Describe the clusters of a source by experts of other sources, so that clients can be served without new experts.

    nds describe --experts experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/description.json

CPU-sized, on a random draw of the images of each cluster:

    nds describe --experts experts --index output/index.parquet --partition output/partition.parquet \\
        --output output/description.json --max-images 50

The provider of the source runs this and publishes the numbers: one per cluster and expert. A client that has
scored these experts computes nothing new (`nds draw --selector snds`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.command_line import add_device_argument, add_settings, documented_parser, run, settings_from
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.opening import open_executor
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.files.artifacts import check_writable


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "describe")
    parser.add_argument("--experts", required=True, help="folder of experts, of any sources")
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--partition", required=True, help="partition of that index (Parquet)")
    parser.add_argument("--output", required=True, help="the description (JSON)")
    add_settings(parser, ScoringConfig, ("max_images", "seed", "precision", "num_workers"))
    add_device_argument(parser)
    add_settings(parser.add_argument_group("where it runs"), EngineConfig)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, describe, save."""
    args = parse_arguments(argv)
    from nds_plugin.experts.describing import describe_source
    from nds_plugin.experts.expert_set import ExpertSet
    from nds_plugin.experts.scoring_shards import scoring_shards
    from nds_plugin.images.networks import choose_device
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = settings_from(args, ScoringConfig)
    check_writable(Path(args.output).parent)  # before the work that would be lost
    experts, index = ExpertSet.load(args.experts), SourceIndex.load(args.index)
    engine, partition = settings_from(args, EngineConfig), Partition.load(args.partition)
    executor = open_executor(engine, str(choose_device(args.device)))
    with scoring_shards(executor, Path(args.output), engine.whole_batches) as shards:
        found = describe_source(experts, index, partition, config, shards=shards)
        found.save(args.output)
    print(
        f"{found.num_clusters} clusters described by {len(found.experts)} experts of the set "
        f"{found.expert_set[:12]} on {sum(found.images)} images; wrote {args.output}"
    )


if __name__ == "__main__":
    run(main)
