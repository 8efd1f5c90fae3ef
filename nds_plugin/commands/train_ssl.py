"""The main job of self-supervision: select source images, pretrain by MoCo or RotNet, fine-tune a classifier, evaluate.

    nds train-ssl nds_moco_pets.yaml --num-gpus 8

A config is a file of yours or the name of one in configs/ssl/, which are installed with the package.
uniform_moco_pets.yaml is nds_moco_pets.yaml with NDS.SELECTOR uniform, and so for each selector. At CPU size,
on the photographs of NDS_DATA and Downsampled ImageNet below DETECTRON2_DATASETS (docs/ssl.md):

    NDS_DATA=/path/to/data nds train-ssl nds_mini.yaml OUTPUT_DIR output/ssl

The results go to OUTPUT_DIR. Steps that are done and still valid are skipped, and an interrupted run goes
on from its last checkpoint. Any key of the config can be changed at the end of the command by KEY VALUE. Instead of
--num-gpus, torchrun may start the processes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from nds_plugin.command_line import documented_parser, run
from nds_plugin.commands.select_only import add_select_only
from nds_plugin.errors import CommandLineError, NDSError
from nds_plugin.extras import needed_for
from nds_plugin.job.taking_turns import only_job_in

logger = logging.getLogger("nds_plugin")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The config first, or by --config as in the other main jobs; options before, among or after the changes of keys."""
    parser = documented_parser(__doc__, "train-ssl")
    parser.add_argument(
        "--config", "--config-file", dest="config", help="the config, where it is not named first"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes, on GPUs where there are any (default 1)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from checkpoints even if the config has changed since"
    )
    add_select_only(parser)
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG | KEY VALUE", help="the config, then changes of its keys"
    )
    args = parser.parse_scattered(argv, "words")
    if args.config is None:
        if not args.words:
            raise CommandLineError("command line: name a config, such as nds train-ssl nds_moco_pets.yaml.")
        args.config, *args.words = args.words
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    with needed_for("nds train-ssl"):
        import torch

        from nds_plugin.images.networks import choose_device
        from nds_plugin.job.leaving import leave_processes
        from nds_plugin.job.selecting import check_selects
        from nds_plugin.report.runs import write_runs_report
        from nds_plugin.ssl.config import load_config
        from nds_plugin.ssl.host import SSLHost
        from nds_plugin.ssl.main_job import MainJob, check_config, check_targets
        from nds_plugin.ssl.processes import join_processes
    job = load_config(args.config, args.words)
    if args.select_only:
        check_selects(job.nds.SELECTOR)
    device = choose_device(job.cfg.DEVICE)
    if args.num_gpus < 1:
        raise NDSError(f"--num-gpus must be 1 or more, got {args.num_gpus}.")
    if args.num_gpus > 1:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise NDSError(
                f"--num-gpus {args.num_gpus} under torchrun, which has started the processes already: leave --num-gpus out."
            )
        if device.type == "cuda" and torch.cuda.device_count() < args.num_gpus:
            raise NDSError(
                f"--num-gpus is {args.num_gpus}, but torch sees {torch.cuda.device_count()} GPUs here."
            )
        with silent():  # the processes will tell it
            check_config(job, args.num_gpus)
            check_targets(job, SSLHost(job.cfg.FOLDERS))
        start_processes(args)
    join_processes(device.type == "cuda")
    main_job = MainJob(job, resume=args.resume)
    with only_job_in(job.output, main_job.host):
        if args.select_only:
            main_job.select_only()
        elif document := main_job.run():
            found = document["summary"]
            logger.info(
                "top-1 %.2f %%, mean per class %.2f %% on %d images: %s",
                *(found["top1"], found["mean_per_class"], found["images"], job.output / "results.json"),
            )
            page = write_runs_report({document["selector"]: document}, job.output / "report.html")
            logger.info("Report: %s", page)
    leave_processes()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without warnings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def start_processes(args: argparse.Namespace) -> None:
    """Become the launcher of so many processes of this command, without what this one keeps on a GPU."""
    from nds_plugin.ssl.launcher import command

    flags = [*(["--resume"] if args.resume else []), *(["--select-only"] if args.select_only else [])]
    words = ["--config", args.config, *flags, *args.words]
    os.execv(sys.executable, command(args.num_gpus, "nds_plugin.commands.train_ssl", words))


if __name__ == "__main__":
    run(main)
