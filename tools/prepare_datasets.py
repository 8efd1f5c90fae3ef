#!/usr/bin/env python
"""Which of the paper's datasets are there, and their annotation stores.

    python tools/prepare_datasets.py --check
    python tools/prepare_datasets.py --build coco voc2007 --jobs 8

CPU-sized, one small dataset from elsewhere:

    python tools/prepare_datasets.py --build oxford_pets --root ~/data

The same as ``nds datasets``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("datasets")

if __name__ == "__main__":
    run(main)
