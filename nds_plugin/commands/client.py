"""The client of the web service. The same as ``nds-client``.

    nds client --server https://nds.example.org score --images my_photos

CPU-sized, with the server of `make demo-service`: the same, with --max-images 50.
"""

from __future__ import annotations

from collections.abc import Sequence

from nds_plugin.command_line import started_as
from nds_plugin.service.client import cli


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb of the client."""
    cli.main(argv, program=started_as("client"))


if __name__ == "__main__":
    main()
