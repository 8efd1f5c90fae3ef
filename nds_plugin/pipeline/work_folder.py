"""The folder of a job's artefacts: each is made once, by the main process, and kept while it is valid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nds_plugin.engine.processes import Processes, agreed
from nds_plugin.files.artifacts import is_valid

logger = logging.getLogger(__name__)


class WorkFolder:
    """Artefacts by name and key; runs that share the folder share them.

    Args:
        folder: where they lie.
        processes: those of the job.
        timed: ``timed(name)`` is a context that takes the time of a step.
    """

    def __init__(self, folder: Path, processes: Processes, timed: Callable[[str], Any]) -> None:
        self.folder = folder
        self.timed = timed
        self.paths: dict[str, str] = {}
        self.processes = processes
        self._prefix = ""

    def beside(self, prefix: str) -> WorkFolder:
        """The same folder for steps that are run twice: their times and paths are told under names with this prefix."""
        other = WorkFolder(self.folder, self.processes, lambda name: self.timed(prefix + name))
        other.paths, other._prefix = self.paths, prefix
        return other

    def artefact(
        self,
        name: str,
        kind: str,
        key: str,
        suffix: str,
        make: Callable[[Path], None],
        lacking: Callable[[Path], bool] = lambda _: False,
        *,
        together: bool = False,
    ) -> Path:
        """The path of an artefact; the main process makes it where it is missing, all wait for it.

        Args:
            lacking: whether something beside a valid one is missing, so that it is made again.
            together: all processes call ``make``, and the main one writes.
        """
        path = self.place(name, key, suffix)
        self._make(name, path, lambda: is_valid(path, kind, key) and not lacking(path), make, together)
        return path

    def subfolder(
        self, name: str, key: str, make: Callable[[Path], None], complete: Callable[[Path], bool]
    ) -> Path:
        """The path of an artefact that is a folder; all processes call ``make`` where it is not complete, and the main
        one writes."""
        path = self.place(name, key)
        self._make(name, path, lambda: complete(path), make, together=True)
        return path

    def _make(
        self,
        name: str,
        path: Path,
        is_there: Callable[[], bool],
        make: Callable[[Path], None],
        together: bool,
    ) -> None:
        is_main = self.processes.rank == 0
        if agreed(self.processes, is_there):
            done = "kept"
        else:
            if together or is_main:
                with self.timed(name):
                    make(path)
            self.processes.barrier()
            done = "wrote"
        if is_main:
            logger.info("%s: %s %s", self._prefix + name, done, path)

    def place(self, name: str, key: str, suffix: str = "") -> Path:
        """The path of an artefact, which results tell; who fills it is the caller's business."""
        path = self.folder / f"{name}-{key[:10]}{suffix}"
        self.paths[self._prefix + name] = str(path)
        return path
