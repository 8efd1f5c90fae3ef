#!/usr/bin/env python
"""Score a gate on a target dataset: what the client runs, on images that stay where they are.

    python tools/score_gate.py --gate output/gate --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    python tools/score_gate.py --gate output/gate --images my_photos --output scores.json --max-images 200

The same as ``nds gate score``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("gate score")

if __name__ == "__main__":
    run(main)
