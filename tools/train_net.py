#!/usr/bin/env python
"""The main job: select source images, pretrain on them, fine-tune on the target, evaluate.

    python tools/train_net.py --config-file configs/detectron2/nds_cityscapes.yaml --num-gpus 8

A bare name is looked up in configs/detectron2/. At CPU size, on the embedded synthetic sample:

    python tools/train_net.py --config nds_sample.yaml OUTPUT_DIR output/sample

The same as ``nds train``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("train")

if __name__ == "__main__":
    run(main)
