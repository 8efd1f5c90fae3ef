"""Score experts on a target dataset: the client runs this on its own images, which stay where they are.

    nds score --experts experts --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    nds score --experts experts --images my_photos --output scores.json --max-images 200

The paper's targets by name (`nds datasets --check` shows where each belongs):

    nds score --experts experts --dataset stanford_cars_train --output scores.json

Only the scores leave: one number and its standard error per expert. For a folder of images this package and
torch are enough; task-supervised experts need labels (--coco or --dataset).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nds_plugin.command_line import (
    add_device_argument,
    add_settings,
    documented_parser,
    file_to_write,
    run,
    settings_from,
)
from nds_plugin.commands.hosts import files_host
from nds_plugin.engine.config import EngineConfig
from nds_plugin.engine.opening import open_executor
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.files.artifacts import check_writable
from nds_plugin.pipeline.naming import (
    add_target_arguments,
    target_from_arguments,
)
from nds_plugin.pipeline.scores_text import scores_text


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "score")
    parser.add_argument("--experts", required=True, help="folder of the experts")
    add_target_arguments(parser)
    parser.add_argument("--output", required=True, help="file to write the scores to, ending in .json")
    add_settings(parser, ScoringConfig, ("metric", "max_images", "seed", "precision", "num_workers"))
    add_device_argument(parser)
    add_settings(parser.add_argument_group("where it runs"), EngineConfig)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, score, print the scores and save them."""
    args = parse_arguments(argv)
    from nds_plugin.experts.expert_set import ExpertSet
    from nds_plugin.experts.scoring import score_experts
    from nds_plugin.experts.scoring_shards import scoring_shards
    from nds_plugin.images.networks import choose_device

    config = settings_from(args, ScoringConfig)
    output = file_to_write(args.output, ".json")
    check_writable(output.parent)  # before the work that would be lost
    engine, experts = settings_from(args, EngineConfig), ExpertSet.load(args.experts)
    executor = open_executor(engine, str(choose_device(args.device)))
    with scoring_shards(executor, output, engine.whole_batches) as shards:
        scores = score_experts(experts, target_from_arguments(args, files_host()), config, shards=shards)
        scores.save(output)
    print(scores_text(scores, args.output))


if __name__ == "__main__":
    run(main)
