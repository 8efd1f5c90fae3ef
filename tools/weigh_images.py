#!/usr/bin/env python
"""Weigh the single images of a source for a target: nearest neighbours, a domain classifier, an oracle.

    python tools/weigh_images.py --index output/index.parquet --selector knn --images my_photos \\
        --output weights.parquet
    python tools/draw_subset.py --index output/index.parquet --selector knn --image-weights weights.parquet \\
        --images 23000 --output selection.parquet

At CPU size, without any network:

    python tools/weigh_images.py --index output/index.parquet --selector oracle --sources coco_2017_train \\
        --output weights.parquet

The same as ``nds weigh``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("weigh")

if __name__ == "__main__":
    run(main)
