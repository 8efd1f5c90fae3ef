#!/usr/bin/env python
"""Score experts on a target dataset: what the client runs, on images that stay where they are.

    python tools/score_experts.py --experts experts --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    python tools/score_experts.py --experts experts --images my_photos --output scores.json --max-images 200

The paper's targets by name (tools/prepare_datasets.py --check shows where each belongs):

    python tools/score_experts.py --experts experts --dataset stanford_cars_train --output scores.json

The same as ``nds score``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("score")

if __name__ == "__main__":
    run(main)
