#!/usr/bin/env python
"""The main job in MMDetection: select source images, pretrain on them, fine-tune on the target, evaluate.

    torchrun --nproc_per_node 8 tools/train_mmdet.py nds_cityscapes.py --launcher pytorch

A bare name is looked up in configs/mmdetection/. At CPU size, on the embedded synthetic sample:

    python tools/train_mmdet.py nds_sample.py --work-dir output/sample

The same as ``nds train-mm``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("train-mm")

if __name__ == "__main__":
    run(main)
