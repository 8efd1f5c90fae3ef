#!/usr/bin/env python
"""Describe the clusters of a source by experts of other sources, so that clients can be served without new experts.

    python tools/describe_source.py --experts experts --index output/index.parquet \\
        --partition output/partition.parquet --output output/description.json

CPU-sized: the same with --max-images 50, a draw of the images of each cluster.

The same as ``nds describe``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("describe")

if __name__ == "__main__":
    run(main)
