"""Serve a store of published sets: page and API. The same as ``nds-serve``.

    nds serve publish --store store --index index.parquet --partition partition.parquet \\
        --experts experts
    nds serve run --store store --port 8000

On the synthetic sample: make demo-service.
"""

from __future__ import annotations

from collections.abc import Sequence

from nds_plugin.command_line import started_as
from nds_plugin.service.server import commands


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of the server; without one, the server."""
    commands.main(argv, program=started_as("serve"))


if __name__ == "__main__":
    main()
