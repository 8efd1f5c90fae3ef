#!/usr/bin/env python
"""Make Table 1, 2, 4 or 5 of the paper, or a CPU-sized one: run the missing cells, print the table.

    python tools/reproduce_tables.py --table 4 --dry-run
    python tools/reproduce_tables.py --table 4 --num-gpus 8

At CPU size, on the real photographs of NDS_DATA (layout in docs/datasets.md), an hour at a time:

    NDS_DATA=/path/to/data python tools/reproduce_tables.py --table mini --jobs 2 --time-limit 60

The same as ``nds tables``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("tables")

if __name__ == "__main__":
    run(main)
