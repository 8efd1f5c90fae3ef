"""The checkpoints in the folder of a training: the newest two, until it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nds_plugin.engine.processes import Processes, agreed
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.files.checkpoints import first_whole, write_checkpoint
from nds_plugin.job.training_folder import LAST

_KEPT = 2  # a damaged one has one before it


def write(folder: Path, iteration: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, and then remove those before the one before."""
    name = f"model_{iteration:07d}.pth"
    write_checkpoint(folder / name, state)
    _name_last(folder, name)
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()


def newest_whole(folder: Path, processes: Processes) -> Path:
    """The one to go on from; the main process chooses.

    Raises:
        NDSError: none is whole.
    """
    path, tried = agreed(processes, lambda: first_whole(_newest_first(folder)))
    if path is None:
        raise NDSError(
            f"{folder} has no whole checkpoint to resume at ({'; '.join(tried) or 'none'}): restore one, or start anew in "
            "another OUTPUT_DIR."
        )
    return path


def remove_newer(folder: Path, path: Path) -> None:
    """Remove the damaged ones after that which is gone on from: they must not count among the two that are kept."""
    paths = _newest_first(folder)
    if damaged := paths[: paths.index(path)]:
        _name_last(folder, path.name)
        for other in damaged:
            other.unlink()


def remove(folder: Path) -> None:
    """Remove them: the training is finished."""
    for path in (folder / LAST, *_newest_first(folder)):
        path.unlink(missing_ok=True)


def which_is_kept(folder: Path) -> str:
    """The newest, as the end of an error says it; empty where there is none."""
    return "".join(f" {path} is kept." for path in _newest_first(folder)[:1])


def _name_last(folder: Path, name: str) -> None:
    with atomic_write(folder / LAST, "w") as file:
        file.write(name)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("model_[0-9]*.pth"), key=lambda path: (len(path.name), path.name), reverse=True)
