"""The main job in MMDetection: select source images, pretrain on them, fine-tune on the target, evaluate.

    nds train-mm nds_cityscapes.py --work-dir output/cityscapes

A config is a file of yours or the name of one in configs/mmdetection/, which are installed with the
package; uniform_cityscapes.py is nds_cityscapes.py with nds.selector=uniform, and so for each
selector. On several GPUs:

    torchrun --nproc_per_node 8 -m nds_plugin.commands.train_mm nds_cityscapes.py --launcher pytorch

At CPU size, on the embedded synthetic sample:

    nds train-mm nds_sample.py --work-dir output/sample

Steps that are done and still valid are skipped; an interrupted run goes on from its last checkpoint. Messages call
the key nds.budget.images of a config NDS.BUDGET.IMAGES.
"""

from __future__ import annotations

import argparse
import ast
import logging
from collections.abc import Sequence
from typing import Any

from nds_plugin.command_line import documented_parser, run
from nds_plugin.commands.select_only import add_select_only
from nds_plugin.errors import NDSError
from nds_plugin.extras import needed_for
from nds_plugin.job.taking_turns import only_job_in
from nds_plugin.report.runs import results_table, write_runs_report

logger = logging.getLogger("nds_plugin")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """MMDetection's arguments."""
    parser = documented_parser(__doc__, "train-mm")
    parser.add_argument("config", help="a config file; a bare name is in configs/mmdetection/")
    parser.add_argument("--work-dir", default="", help="of the run; by default output/<config>_mm/<selector>")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes of the config, such as nds.budget.images=23000 train_dataloader.batch_size=4",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from checkpoints even if the config has changed since"
    )
    stops_early = parser.add_mutually_exclusive_group()
    add_select_only(stops_early)
    stops_early.add_argument(
        "--eval-only",
        nargs="?",
        const="",
        default=None,
        metavar="WEIGHTS",
        help="evaluate weights, by default the fine-tuned ones of the run",
    )
    parser.add_argument(
        "--launcher",
        default="none",
        choices=("none", "pytorch", "slurm", "mpi"),
        help="what started the processes",
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs as MMDetection's own tools read them: ``a,b``, ``[a,b]`` and ``(a,b)`` need no quotes.

    Beside that dicts and quoted texts are Python's, also inside of lists, and a text that is no list keeps its blanks.

    Raises:
        NDSError: a pair without ``=``, brackets that do not match, or a dict that is not Python's.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise NDSError(f"command line: --cfg-options takes KEY=VALUE, got {pair!r}.")
        try:
            found[key] = _value(text)
        except (AssertionError, TypeError, ValueError, SyntaxError):
            raise NDSError(
                f"command line: --cfg-options {key}: brackets or quotes do not match in {text!r}."
            ) from None
    return found


def _value(text: str) -> Any:
    from mmengine.config import DictAction

    if text.startswith(("{", "[", "(")) and any(mark in text for mark in "{'\""):
        try:
            return ast.literal_eval(text)
        except (TypeError, ValueError, SyntaxError):
            if "{" in text:  # DictAction knows no dicts
                raise
    value = DictAction._parse_iterable(text)
    return text.strip("'\"") if isinstance(value, str) else value


def report(rows: dict[str, Any]) -> None:
    """Log the results of the test datasets by name."""
    if rows:
        logger.info("Results:\n%s", results_table(rows))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    with needed_for("nds train-mm"):
        from nds_plugin import mm  # noqa: F401  (registers the sampler, hooks and datasets)
        from nds_plugin.mm.config.loading import load_config
    options = options_of(args.cfg_options)
    job = load_config(args.config, options, args.work_dir)  # MMDetection can be imported from here on
    from nds_plugin.job.leaving import leave_processes
    from nds_plugin.mm.job.host import join_processes
    from nds_plugin.mm.job.main_job import MainJob

    join_processes(args.launcher)
    main_job = MainJob(job, launcher=args.launcher, resume=args.resume)
    if args.eval_only is not None:
        report(main_job.evaluate_only(args.eval_only or None))
    else:
        with only_job_in(job.work_dir, main_job.host):
            if args.select_only:
                main_job.select_only()
            elif document := main_job.run():
                page = write_runs_report({document["selector"]: document}, job.work_dir / "report.html")
                report({document["test"]: document["summary"], **document["other_tests"]})
                logger.info("Report: %s", page)
    leave_processes()


if __name__ == "__main__":
    run(main)
