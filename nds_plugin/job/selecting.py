"""The selecting half of a main job, and ``--select-only``: the draw as a page, before anything is trained on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.errors import NDSError
from nds_plugin.job.results import machine, versions
from nds_plugin.job.selection_summary import Timings, selection_summary
from nds_plugin.job.taking_turns import alone
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
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


def check_selects(selector: str) -> None:
    """Refuse ``--select-only`` where nothing is selected.

    Raises:
        NDSError: the selector of the config is none.
    """
    if selector == NO_PRETRAINING:
        raise NDSError(
            f"--select-only: the selector is {NO_PRETRAINING}, which selects nothing: name one, or leave the option out."
        )


def write_draw(
    steps: SelectionSteps,
    timed: Timings,
    output: Path,
    target: Sequence[str],
    config: str,
    *,
    rescored: Sequence[int] = (),
    frameworks: Sequence[str] = (),
) -> None:
    """Select, and write what is drawn as a page; the processes of the job call it together.

    Args:
        steps: of the job; ``timed`` took their times.
        output: the folder of the run.
        target: names of the datasets that the job fine-tunes on.
        config: of the job, as text.
        rescored: see :func:`selection_summary`; the job will score again then.
        frameworks: see :func:`nds_plugin.job.results.versions`.
    """
    selected = run_selection(steps)
    if steps.host.rank != 0:
        return
    run = {
        "target": list(target),
        "selection": selection_summary(selected, output, rescored),
        "times": timed.seconds,
        "versions": versions(frameworks),
        "machine": machine(),
        "config": config,
    }
    page = write_selection_report(located(output, run), output / PAGE)
    logger.info(
        "--select-only: stopped before training. Selection: %s\nPage: %s\nThe same command without --select-only takes this "
        "selection and trains.",
        selected.path,
        page,
    )
