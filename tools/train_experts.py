#!/usr/bin/env python
"""Train the experts of a partition: a linear head per cluster on one frozen network, or a ResNet-18 per cluster.

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts

CPU-sized: the same with --crop-size 128. The paper's, a ResNet-18 per cluster: with --kind network.

The same as ``nds experts``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("experts")

if __name__ == "__main__":
    run(main)
