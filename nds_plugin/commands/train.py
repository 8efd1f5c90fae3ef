"""The main job: select source images, pretrain on them, fine-tune on the target, evaluate.

    nds train --config nds_cityscapes.yaml --num-gpus 8

A config is a file of yours or the name of one in configs/detectron2/, which are installed with the
package. uniform_cityscapes.yaml is nds_cityscapes.yaml with NDS.SELECTOR uniform, and so for each
selector. At CPU size, on a synthetic sample that the package draws:

    nds train --config nds_sample.yaml OUTPUT_DIR output/sample

The results go to OUTPUT_DIR, which is output/<config>/<selector> by default. Steps that are done and
still valid are skipped, and an interrupted run goes on from its last checkpoint. Any key of the config can be
changed at the end of the command by KEY VALUE (docs/configuration.md lists them).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.command_line import documented_parser, run
from nds_plugin.commands.select_only import add_select_only
from nds_plugin.errors import CommandLineError


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Detectron2's arguments under its names, and --config as a short form of --config-file."""
    parser = documented_parser(__doc__, "train")
    parser.add_argument(
        "--config",
        "--config-file",
        dest="config_file",
        metavar="NAME",
        default="",
        help="a file, or the name of an installed config",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoints even if the config has changed"
    )
    stops_early = parser.add_mutually_exclusive_group()
    add_select_only(stops_early)
    stops_early.add_argument(
        "--eval-only", action="store_true", help="test the trained detector, or MODEL.WEIGHTS, and stop"
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="GPUs to use on this machine; where there are none, how many processes (default: 1)",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="machines in all (default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help="for several machines: tcp://HOST:PORT of machine 0"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config with new values")
    args = parser.parse_scattered(argv, "opts")
    if not args.config_file:
        raise CommandLineError(
            f"command line: name a config by --config, such as --config nds_sample.yaml; {parser.prog} --help tells more."
        )
    return args


@contextlib.contextmanager
def prepared(args: argparse.Namespace) -> Iterator[Any]:
    """The config of the run, frozen, with logging set up, in a folder where no other job runs.

    Raises:
        NDSError: another job runs in it.
    """
    from nds_plugin.d2 import load_config  # before Detectron2, whose import it keeps quiet

    # isort: split
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from nds_plugin.d2.data.host import DetectronHost
    from nds_plugin.job.taking_turns import only_job_in

    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    # config.yaml of the job that runs stays as it is
    turn = contextlib.nullcontext() if args.eval_only else only_job_in(Path(cfg.OUTPUT_DIR), DetectronHost())
    with turn:
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="nds_plugin")
        yield cfg


def work(args: argparse.Namespace) -> None:
    """What every process of the job runs."""
    with prepared(args) as cfg:
        from nds_plugin.d2.job.main_job import evaluate_only, select_only
        from nds_plugin.d2.job.main_job import run as run_main_job
        from nds_plugin.report.runs import write_runs_report

        if args.eval_only:
            weights = cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in args.opts else None
            report(evaluate_only(cfg, weights))
            return
        if args.select_only:
            select_only(cfg)
            return
        document = run_main_job(cfg, resume=args.resume)
        if document:  # on the main process
            page = write_runs_report({cfg.NDS.SELECTOR: document}, Path(cfg.OUTPUT_DIR) / "report.html")
            report({document["test"]: document["summary"], **document["other_tests"]})
            logging.getLogger("nds_plugin").info("Report: %s", page)


def report(rows: dict[str, Any]) -> None:
    """Log the results of the test datasets by name; there are none but on the main process."""
    from nds_plugin.report.runs import results_table

    if rows:
        logging.getLogger("nds_plugin").info("Results:\n%s", results_table(rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, refuse what cannot work, start the processes."""
    args = parse_arguments(argv)
    from nds_plugin.d2 import load_config
    from nds_plugin.d2.config.lookup import find_config
    from nds_plugin.d2.job.launching import check_processes, launch
    from nds_plugin.d2.job.main_job import check_job
    from nds_plugin.job.selecting import check_selects

    args.config_file, ours = find_config(args.config_file)
    args.opts = [*ours, *args.opts]
    cfg = load_config(args.config_file, args.opts)
    if args.select_only:
        check_selects(cfg.NDS.SELECTOR)
    check_job(cfg, check_processes(args, cfg.MODEL.DEVICE))  # before any process is started
    launch(work, args)


if __name__ == "__main__":
    run(main)
