"""Print the results of finished runs side by side and write a report page.

    nds compare output/demo/none output/demo/uniform output/demo/selected \\
        --output output/demo/report.html

Each folder is the OUTPUT_DIR of a run of `nds train`, `nds train-mm` or `nds train-ssl`. Rows are called by the selector (uniform,
nds, ...) where the runs differ in it, else by the folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from nds_plugin.command_line import documented_parser, run
from nds_plugin.report.runs import load_runs, results_table, write_runs_report


def main(argv: Sequence[str] | None = None) -> None:
    parser = documented_parser(__doc__, "compare")
    parser.add_argument("runs", nargs="+", help="folders of finished runs (their OUTPUT_DIR)")
    parser.add_argument("--output", required=True, help="HTML page to write")
    parser.add_argument("--title", default="", help="title of the page")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images that are shown")
    args = parser.parse_args(argv)
    runs = load_runs(args.runs)
    print(results_table({name: document["summary"] for name, document in runs.items()}))
    print(f"Report: {write_runs_report(runs, args.output, args.title, args.seed)}")


if __name__ == "__main__":
    run(main)
