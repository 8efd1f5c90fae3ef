#!/usr/bin/env python
"""The client of the web service. The same as ``nds-client``.

    python tools/nds_client.py --server https://nds.example.org score --images my_photos

CPU-sized, with the server of `make demo-service`: the same, with --max-images 50.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("client")

if __name__ == "__main__":
    run(main)
