#!/usr/bin/env python
"""The main job of self-supervision: select source images, pretrain by MoCo or RotNet, fine-tune a classifier, evaluate.

    python tools/train_ssl.py --config nds_moco_pets.yaml --num-gpus 8

A bare name is looked up in configs/ssl/. Or by torchrun:

    torchrun --nproc_per_node 8 tools/train_ssl.py --config nds_moco_pets.yaml

The same as ``nds train-ssl``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("train-ssl")

if __name__ == "__main__":
    run(main)
