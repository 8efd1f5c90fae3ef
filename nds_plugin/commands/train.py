"""The main job: select source images, pretrain on them, fine-tune on the target, evaluate.

    nds train --config nds_cityscapes.yaml --num-gpus 8

A config is a file of yours or the name of one in configs/detectron2/, which are installed with the
package. At CPU size, on the embedded synthetic sample:

    nds train --config nds_sample.yaml OUTPUT_DIR output/sample

Steps that are done and still valid are skipped; an interrupted run goes on where it stopped.
Detectron2's arguments hold: --num-gpus (processes, on CPUs too), --num-machines, --resume,
--eval-only and KEY VALUE overrides at the end.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nds_plugin.d2 import load_config  # before Detectron2, whose import it keeps quiet

# isort: split
from detectron2.config import CfgNode as CN
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from nds_plugin.command_line import parse, run, started_as
from nds_plugin.d2.config.nodes import find_config
from nds_plugin.d2.job.launching import check_processes, launch
from nds_plugin.d2.job.main_job import check_job, evaluate_only
from nds_plugin.d2.job.main_job import run as run_main_job
from nds_plugin.errors import NDSError
from nds_plugin.report.runs import results_table, write_runs_report


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Detectron2's arguments, and --config as a short form of --config-file."""
    program = started_as("train")
    parser = default_argument_parser(epilog=(__doc__ or "").replace("    nds train ", f"    {program} "))
    parser.prog = program
    parser.add_argument(
        "--config", dest="config_file", metavar="NAME", help="the same; a bare name is in configs/detectron2/"
    )
    args = parse(parser, argv)
    if not args.config_file:
        raise NDSError("name a config by --config-file, such as --config-file nds_sample.yaml.")
    return args


def setup(args: argparse.Namespace) -> CN:
    """The config of the run, frozen, with logging set up."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="nds_plugin")
    return cfg


def work(args: argparse.Namespace) -> None:
    """What every process of the job runs."""
    cfg = setup(args)
    if args.eval_only:
        weights = cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in args.opts else None
        report(evaluate_only(cfg, weights))
        return
    document = run_main_job(cfg, resume=args.resume)
    if comm.is_main_process():
        page = write_runs_report({cfg.NDS.SELECTOR: document}, Path(cfg.OUTPUT_DIR) / "report.html")
        report({document["test"]: document["summary"], **document["other_tests"]})
        logging.getLogger("nds_plugin").info("Report: %s", page)


def report(rows: dict[str, Any]) -> None:
    """Log the results of the test datasets by name."""
    if comm.is_main_process():
        logging.getLogger("nds_plugin").info("Results:\n%s", results_table(rows))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.opts)
    check_job(cfg, check_processes(args, cfg.MODEL.DEVICE))  # before any process is started
    launch(work, args)


if __name__ == "__main__":
    run(main)
