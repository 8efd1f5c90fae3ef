#!/usr/bin/env python
"""Draw a subset of a source by a client's scores, by weights of its images, or uniformly.

    python tools/draw_subset.py --index index.parquet --partition partition.parquet \\
        --scores scores.json --images 23000 --name cityscapes_23k

At CPU size: --share 0.2 of any source, in seconds.

The same as ``nds draw``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("draw")

if __name__ == "__main__":
    run(main)
