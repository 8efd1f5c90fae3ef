#!/usr/bin/env python
"""Train a gate: a classifier of a partition's clusters on the features of one network.

    python tools/train_gate.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/gate

CPU-sized: the same with --crop-size 128. --network and --crop-size should be those of the partition.

The same as ``nds gate train``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("gate train")

if __name__ == "__main__":
    run(main)
