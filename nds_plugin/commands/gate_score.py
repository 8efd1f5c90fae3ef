"""Score a gate on a target dataset: the client runs this on its own images, which stay where they are.

    nds gate score --gate output/gate --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    nds gate score --gate output/gate --images my_photos --output scores.json --max-images 200

One forward pass an image; only the mean posterior of each cluster and its standard error leave.
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
from nds_plugin.files.artifacts import check_writable
from nds_plugin.pipeline.naming import (
    add_target_arguments,
    target_from_arguments,
)
from nds_plugin.pipeline.scores_text import scores_text
from nds_plugin.selection.selectors.base import TargetConfig


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "gate score")
    parser.add_argument("--gate", required=True, help="folder of the gate")
    add_target_arguments(parser)
    parser.add_argument("--output", required=True, help="file to write the scores to, ending in .json")
    add_settings(parser, TargetConfig)
    add_device_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, score, print the scores and save them."""
    args = parse_arguments(argv)
    from nds_plugin.images.networks import choose_device
    from nds_plugin.selection.selectors.gate_network import score_gate
    from nds_plugin.selection.selectors.gate_set import Gate

    config = settings_from(args, TargetConfig)
    output = file_to_write(args.output, ".json")
    check_writable(output.parent)  # before the work that would be lost
    gate = Gate.load(args.gate)
    scores = score_gate(gate, target_from_arguments(args, files_host()), config, choose_device(args.device))
    scores.save(output)
    print(scores_text(scores, args.output))


if __name__ == "__main__":
    run(main)
