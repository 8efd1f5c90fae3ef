"""The selecting half of a main job, and ``--select-only``: the draw as a page, before anything is trained on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.job.results import machine, versions
from nds_plugin.job.selection_summary import Timings, selection_summary
from nds_plugin.job.taking_turns import alone
from nds_plugin.pipeline.selection_steps import Selected, SelectionSteps
from nds_plugin.report.run_files import located
from nds_plugin.report.runs import write_selection_report

PAGE = "selection.html"
logger = logging.getLogger(__name__)


def run_selection(steps: SelectionSteps) -> Selected:
    """Select, while no other job does in the same folder; the processes of the job call it together."""
    # A selector that needs nothing trains nothing which another job might train, too.
    with alone(steps.folder, steps.host) if steps.settings.selector.needs else contextlib.nullcontext():
        return steps.run()


def select_and_show(
    steps: SelectionSteps, timed: Timings, output: Path, config: str, frameworks: Sequence[str] = ()
) -> None:
    """Select, and write what was drawn as a page; the processes of the job call it together.

    Args:
        steps: of the job; ``timed`` took their times.
        output: the folder of the run.
        config: of the job, as text.
        frameworks: see :func:`nds_plugin.job.results.versions`.
    """
    selected = run_selection(steps)
    if steps.host.rank != 0:
        return
    run = {
        "target": list(steps.settings.targets),
        "selection": selection_summary(selected, output),
        "times": timed.seconds,
        "versions": versions(frameworks),
        "machine": machine(),
        "config": config,
    }
    page = write_selection_report(located(output, run), output / PAGE)
    logger.info(
        "--select-only: stopped before training. Selection: %s\nPage: %s\nThe same command without --select-only trains on it.",
        selected.path,
        page,
    )
