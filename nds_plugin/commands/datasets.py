"""Check which of the paper's datasets are there, and build their annotation stores.

    nds datasets --check
    nds datasets --build coco voc2007 --jobs 8
    nds datasets --list

CPU-sized, one small dataset from elsewhere:

    nds datasets --build oxford_pets --root ~/data

The datasets lie below DETECTRON2_DATASETS as their providers lay them out; --check shows where each is
looked for, and docs/datasets.md where to get it. A store is built once (also by any command that
needs it) and again when its files change. An interrupted build goes on when started again; if many
processes ask at once, one builds. The exit status is 2 if a named dataset is not there or something is
damaged.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from nds_plugin import command_line
from nds_plugin.datasets.catalogue import DATASETS, select
from nds_plugin.datasets.preparing.building import BUILT, FAILED, MISSING, UP_TO_DATE, Outcome, build
from nds_plugin.datasets.preparing.checking import check
from nds_plugin.datasets.preparing.report import build_report, check_report
from nds_plugin.datasets.public import ROOT, datasets_root
from nds_plugin.errors import NDSError
from nds_plugin.store.parts import default_processes


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    known = ", ".join(dataset.key for dataset in DATASETS)
    names = textwrap.fill(f"Names: all, {known}, or one split of a dataset, as nds_coco_2017_val.", 100)
    parser = command_line.documented_parser(__doc__, "datasets", names)
    verbs = parser.add_mutually_exclusive_group(required=True)
    verbs.add_argument(
        "--list", action="store_true", help="print the names of all datasets, those of Detectron2 too"
    )
    verbs.add_argument(
        "--check",
        nargs="*",
        metavar="NAME",
        help="say which datasets are there, and where they are looked for (default: all)",
    )
    verbs.add_argument("--build", nargs="+", metavar="NAME", help="build the annotation stores of datasets")
    parser.add_argument(
        "--root", metavar="DIR", help=f"folder of the datasets (default ${ROOT}, or datasets)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes to build with (default: one for each core)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check or build, and print what came out."""
    args = parse_arguments(argv)
    if args.list:
        print("\n".join(all_names()))
        return
    root = datasets_root() if args.root is None else Path(args.root).expanduser()
    jobs = default_processes() if args.jobs is None else args.jobs
    if jobs < 1:
        raise NDSError(f"command line: --jobs must be at least 1, got {jobs}.")
    if not root.is_dir():
        given = "--root" if args.root else f"the environment variable {ROOT}, or --root"
        raise NDSError(
            f"no such folder of datasets: {root.absolute()}; name the folder that holds them by {given}."
        )
    width = shutil.get_terminal_size((100, 24)).columns
    if args.check is not None:
        run_check(args.check, root, width)
    else:
        run_build(args.build, root, jobs, width)


def all_names() -> list[str]:
    """Names of the paper's datasets, and of those that are registered with Detectron2 where it is installed."""
    names = {split.name for dataset in DATASETS for split in dataset.splits}
    if importlib.util.find_spec("detectron2") is not None:
        import nds_plugin.d2  # noqa: F401  (registers ours)

        # isort: split
        from detectron2.data import DatasetCatalog

        names |= set(DatasetCatalog.list())
    return sorted(names)


def run_check(names: Sequence[str], root: Path, width: int) -> None:
    """Print what is there.

    Raises:
        NDSError: a named dataset is not whole, or one that is there is damaged.
    """
    states = check(select(names), root)
    print(check_report(states, root, width), flush=True)
    named = bool(names) and "all" not in names
    bad = [f"{s.dataset.key} ({s.verdict})" for s in states if s.damaged or (named and s.missing)]
    if bad:
        raise NDSError(f"{len(bad)} of {len(states)} datasets: {', '.join(bad)}; see above.")


def run_build(names: Sequence[str], root: Path, jobs: int, width: int) -> None:
    """Build stores and print how they came out.

    Raises:
        NDSError: one could not be built; with "all", datasets that are not there are passed over.
    """
    chosen = select(names)
    try:
        outcomes = build([split.name for _, splits in chosen for split in splits], root, jobs)
    except KeyboardInterrupt:
        print("interrupted: start again to go on, what is finished is kept.", file=sys.stderr)
        raise SystemExit(130) from None
    print(build_report(outcomes, width), flush=True)
    bad = failures(outcomes, passed_over="all" in names)
    if len({outcome.reason for outcome in bad}) == 1:
        raise NDSError(bad[0].reason)
    if bad:
        raise NDSError(
            f"{len(bad)} of {len(outcomes)} stores were not built: {', '.join(o.name for o in bad)}; "
            "see above for the reasons."
        )


def failures(outcomes: Sequence[Outcome], passed_over: bool) -> list[Outcome]:
    """Those that end the tool with an error; at least one where nothing at all is there."""
    bad = [o for o in outcomes if o.state == FAILED or (o.state == MISSING and not passed_over)]
    if not bad and not any(o.state in (BUILT, UP_TO_DATE) for o in outcomes):
        raise NDSError("none of the datasets is there: --check shows where they are expected.")
    return bad


if __name__ == "__main__":
    command_line.run(main)
