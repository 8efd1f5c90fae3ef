#!/usr/bin/env python
"""Serve a store of published sets: page and API. The same as ``nds-serve``.

    python tools/serve.py publish --store store --index index.parquet --partition partition.parquet \\
        --experts experts
    python tools/serve.py --store store --port 8000

On the embedded sample: make demo-service.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("serve")

if __name__ == "__main__":
    run(main)
