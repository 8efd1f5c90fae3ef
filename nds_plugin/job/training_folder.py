"""The folder of one training: begun, gone on with, finished or set aside, whoever trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nds_plugin.engine.processes import Processes
from nds_plugin.files.artifacts import is_valid, read_json, write_json

logger = logging.getLogger(__name__)

KIND = "training"
STARTED, FINISHED, FINAL = "started.json", "finished.json", "model_final.pth"
LAST = "last_checkpoint"  # as both frameworks call the file that names it


def train_once(
    processes: Processes,
    folder: Path,
    key: str,
    work: Callable[[bool], None],
    *,
    resume: bool,
    config: str,
    iterations: int,
) -> Path:
    """Train unless that is finished; go on from the last checkpoint where it was interrupted.

    Args:
        processes: of the job; all call this together.
        folder: of the training.
        key: hash of everything the result depends on.
        work: trains into the folder, up to the final weights; told whether to go on from a checkpoint.
        resume: go on from a checkpoint that another config left, too (``--resume``).
        config: the training's config, as text, to be kept.
        iterations: of the whole training.

    Returns:
        The path of the final weights.
    """
    final = folder / FINAL
    if processes.all_gather(is_valid(folder / FINISHED, KIND, key) and final.is_file())[0]:
        logger.info("%s: kept %s", folder.name, final)
        return final
    go_on = processes.all_gather(_can_go_on(folder, key, resume))[0]
    if processes.rank == 0 and not go_on:
        set_aside(folder)
        write_json(folder / STARTED, KIND, key, {"config": config})
    processes.barrier()
    start = time.perf_counter()
    work(go_on)
    if processes.rank == 0:
        seconds = time.perf_counter() - start
        begun = read_json(folder / STARTED, KIND)["key"] if (folder / STARTED).is_file() else None
        # Of another config only after --resume; kept, so that it can be seen.
        resumed_from = None if begun == key else begun
        finished = {
            "iterations": iterations,
            "resumed_from": resumed_from,
            "seconds": seconds,
            "in_parts": go_on,
        }
        write_json(folder / FINISHED, KIND, key, finished)
    processes.barrier()
    return final


def training_times(folders: Iterable[Path]) -> tuple[dict[str, float], list[str]]:
    """Seconds of a run's trainings by the names of their folders, in whatever start of the job they ran.

    Returns:
        The seconds of those that the run trained itself, and the names of those that were interrupted: of
        such a training the seconds are those since it was last gone on with.
    """
    seconds: dict[str, float] = {}
    in_parts = []
    for folder in folders:
        found = read_json(folder / FINISHED, KIND) if (folder / FINISHED).is_file() else {}
        if "seconds" not in found or "taken_from" in found:
            continue
        seconds[folder.name] = found["seconds"]
        in_parts += [folder.name] * found["in_parts"]
    return seconds, in_parts


def set_aside(folder: Path) -> None:
    """Rename what another run left, so that neither run can pick up the other's checkpoints."""
    if not any((folder / name).exists() for name in (STARTED, LAST, FINISHED, FINAL)):
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(aside)
    logger.info("Kept the earlier run as %s.", aside)


def has_begun(folder: Path) -> bool:
    """Whether a training in a folder has finished, or left a checkpoint to go on from."""
    finished = (folder / FINISHED).is_file() and (folder / FINAL).is_file()
    return finished or (folder / LAST).is_file()


def _can_go_on(folder: Path, key: str, resume: bool) -> bool:
    if not (folder / LAST).is_file():
        return False
    if is_valid(folder / STARTED, KIND, key):
        logger.info("%s was interrupted: going on from its last checkpoint.", folder)
        return True
    # A finished training is never "resumed" into another one: it would pass for what it is not.
    if resume and not (folder / FINISHED).is_file():
        logger.warning(
            "%s was started with another config or other inputs; --resume goes on all the same.", folder
        )
        return True
    logger.info("%s was started with another config or other inputs: training starts anew.", folder)
    return False
