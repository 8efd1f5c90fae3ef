#!/usr/bin/env python
"""Train the experts of a partition: one ResNet-18 per cluster.

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --device cuda

CPU-sized:

    python tools/train_experts.py --index output/index.parquet --partition output/partition.parquet \\
        --output output/experts --crop-size 64 --steps 60 --shared-steps 100 --batch-size 16

The same as ``nds experts``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("experts")

if __name__ == "__main__":
    run(main)
