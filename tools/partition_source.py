#!/usr/bin/env python
"""Cut a source of images into K clusters.

    python tools/partition_source.py --coco annotations/instances_train2017.json train2017 \\
        --num-clusters 50 --output output/coco

CPU-sized, on a folder of photographs:

    python tools/partition_source.py --folder photos --num-clusters 8 --crop-size 128 --output output/photos

The same as ``nds partition``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("partition")

if __name__ == "__main__":
    run(main)
