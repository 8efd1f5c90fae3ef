#!/usr/bin/env python
"""Write experts in the form that the paper authors' client (NeuralDataServer-FastAdapt, 2019) reads.

    python tools/export_experts.py --experts experts --format fastadapt

At CPU size: seconds for any set.

The same as ``nds export``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("export")

if __name__ == "__main__":
    run(main)
