"""Make Table 1, 2, 4 or 5 of the paper, or a CPU-sized one: run the missing cells, print the table.

    nds tables --table 4 --dry-run
    nds tables --table 4 --num-gpus 8

At CPU size, on the real photographs of NDS_DATA (layout in docs/datasets.md), an hour at a time:

    NDS_DATA=/path/to/data nds tables --table mini --jobs 2 --time-limit 60

Each cell is `nds train` on the row's config with a seed of its own. `nds tables --show ROW` prints
that config, for a run by hand. Finished cells are never run
again, interrupted ones go on, failed ones are tried again, now and at the next start. The command may
run several times at once, also on several machines that share the folder: they share
out the cells. On one machine with GPUs give each a CUDA_VISIBLE_DEVICES of its own. Tables (text, Markdown, LaTeX, CSV, JSON) and curves are written into the output folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nds_plugin.command_line import documented_parser, run
from nds_plugin.errors import CommandLineError, NDSError
from nds_plugin.experiments.benchmark_page import check_page
from nds_plugin.experiments.row_files import row_yaml
from nds_plugin.experiments.spec import GRIDS, find_row, grid_of, parse_seeds
from nds_plugin.extras import needed_for
from nds_plugin.report.table_formats import text

if TYPE_CHECKING:
    from nds_plugin.experiments.reproduce import Reproduction

logger = logging.getLogger("nds_plugin")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = documented_parser(__doc__, "tables")
    parser.add_argument("--table", metavar="|".join(GRIDS), help="which table")
    parser.add_argument("--show", metavar="ROW", help="print the config of a row, and nothing else")
    parser.add_argument(
        "--output", help="folder of the runs and tables (default output/table4, ..., output/mini)"
    )
    parser.add_argument(
        "--results",
        help="file of finished cells, which are not run again (default OUTPUT/cells.json)",
    )
    parser.add_argument("--seeds", help="seeds of the cells, such as 0-2 or 0,1,5 (default 0-2)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only rows of such names, as 'cityscapes_*_20'; repeatable",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="cells that run at the same time, each on GPUs of its own (default 1); for a second start beside this "
        "one name others by CUDA_VISIBLE_DEVICES",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="GPUs of each cell; processes on CPUs (default 1)"
    )
    parser.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="start no further cell after so many minutes"
    )
    parser.add_argument(
        "--retries", type=int, default=1, help="how often a failed cell is tried again (default 1)"
    )
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep all checkpoints of finished cells (detectors), not only the last of each training",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan: cells, GPU hours, disk (docs/benchmark.md has those of tables 4 and 5)",
    )
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, make the tables of what is finished"
    )
    parser.add_argument(
        "--page", help="also write the tables into this Markdown page, such as docs/benchmark.md for mini"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="keys of the config with new values, for all cells"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.show:
        print(row_yaml(find_row(args.show, args.table)), end="")
        return
    if not args.table:
        raise CommandLineError(f"name a table by --table: {', '.join(GRIDS)}.")
    grid = grid_of(args.table)
    output = Path(args.output or Path("output") / grid.folder)
    results = Path(args.results or output / "cells.json")
    if args.retries < 0 or (args.time_limit is not None and args.time_limit < 0):
        raise NDSError("--retries and --time-limit must be 0 or more.")
    with needed_for(
        f"nds tables --table {args.table}, which reads configs and builds detectors as Detectron2 does,"
    ):
        from nds_plugin.experiments.reproduce import Reproduction
    reproduction = Reproduction(
        grid,
        output,
        results,
        seeds=None if args.seeds is None else parse_seeds(args.seeds),
        only=args.only,
        overrides=args.overrides,
        processes=args.num_gpus,
    )
    if args.dry_run:
        print(reproduction.plan(args.jobs, args.keep_checkpoints), end="")
        return
    if args.page:
        check_page(args.page)
    failed = {} if args.collect else work(reproduction, args)
    reproduction.collect()
    if args.collect and args.results and not results.is_file():
        raise NDSError(
            f"--results {results}: no such file, and {output} has no finished cell to keep in one."
        )
    tables = reproduction.tables(failed)
    chosen = {cell.row.client for cell in reproduction.cells}
    for name, table in tables.items():
        if table.missing < table.cells or name in chosen or grid.kind != "detector":
            print(text(table))
    for path in reproduction.write(tables):
        logger.info("wrote %s", path)
    if args.page:
        reproduction.write_page(Path(args.page), tables)
    if failed:
        lines = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise NDSError(f"{len(failed)} cells failed and will be tried again at the next start: {lines}")


def work(reproduction: Reproduction, args: argparse.Namespace) -> dict[str, str]:
    """Run the missing cells; those that failed, with the reason."""
    reproduction.check()
    limit = None if args.time_limit is None else 60 * args.time_limit
    try:
        outcome = reproduction.run(
            args.jobs, retries=args.retries, time_limit=limit, keep_checkpoints=args.keep_checkpoints
        )
    except KeyboardInterrupt:
        logger.info("stopped; started again, the same command goes on where the cells were.")
        raise SystemExit(130) from None
    logger.info(
        "%d cells finished now, %d failed, %d in the hands of other processes, %d not started.",
        len(outcome.done), len(outcome.failed), len(outcome.elsewhere), len(outcome.not_started),
    )  # fmt: skip
    return outcome.failed


if __name__ == "__main__":
    run(main)
