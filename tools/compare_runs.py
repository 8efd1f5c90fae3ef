#!/usr/bin/env python
"""Print the results of finished runs side by side and write a report page.

    python tools/compare_runs.py output/demo/none output/demo/uniform output/demo/selected \\
        --output output/demo/report.html

The same as ``nds compare``.
"""

from nds_plugin.command_line import run
from nds_plugin.commands.nds import command

main = command("compare")

if __name__ == "__main__":
    run(main)
