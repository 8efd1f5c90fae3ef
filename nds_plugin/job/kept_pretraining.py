"""Finished pretraining in ``NDS.WORK_DIR``: jobs that share the folder and would train the very same take it from there.

Uniform sampling from one source, for one, is the same pretraining for every client.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nds_plugin.engine.processes import Processes
from nds_plugin.files.artifacts import (
    content_hash,
    file_hash,
    is_valid,
    nearest_existing,
    read_json,
    write_json,
)
from nds_plugin.files.locking import held
from nds_plugin.files.temporary import new_link
from nds_plugin.job.training_folder import FINAL, FINISHED, KIND, set_aside
from nds_plugin.pipeline.host import Datasets

logger = logging.getLogger(__name__)


class KeptPretraining:
    """One pretraining in the folder of artefacts; only the main process takes and keeps.

    Args:
        work: the folder of artefacts.
        key: hash of everything that the weights depend on.
    """

    def __init__(self, work: Path, key: str) -> None:
        self.folder = work / f"pretraining-{key[:10]}"
        self._key = key

    @contextlib.contextmanager
    def alone(self, output: Path, processes: Processes) -> Iterator[None]:
        """Jobs that would train the very same wait for the first of them, where its weights can be taken into ``output``.

        The lock lies beside the folder: :meth:`keep` sets aside what a job left that was killed in it.
        """
        lock = self.folder.with_name(f".{self.folder.name}.lock")
        waiting = f"waiting for another process that works on {self.folder}."
        takes = processes.rank == 0 and disk(output) == disk(self.folder)  # else there is no second name
        with held(lock, waiting) if takes else contextlib.nullcontext():
            processes.barrier()
            yield

    @contextlib.contextmanager
    def shared(self, output: Path, processes: Processes) -> Iterator[None]:
        """Around a job's pretraining: it takes what another job has kept, and keeps its own for others."""
        is_main = processes.rank == 0
        with self.alone(output, processes):
            if is_main:
                self.take(output)
            processes.barrier()
            yield
            if is_main:
                self.keep(output)

    def take(self, output: Path) -> None:
        """Put the weights into a job's folder as if they were trained there, unless it has its own."""
        if self._is_finished(output) or not self._is_finished(self.folder):
            return
        if self._put(self.folder, output, {"taken_from": str(self.folder)}):
            logger.info("pretrain: taken from %s, which another job trained.", self.folder)

    def keep(self, output: Path) -> None:
        """Keep a job's weights, unless it went on from a run of another config."""
        if not self._is_finished(self.folder) and not read_json(output / FINISHED, KIND)["resumed_from"]:
            self._put(output, self.folder, {})

    def _is_finished(self, folder: Path) -> bool:
        return is_valid(folder / FINISHED, KIND, self._key) and (folder / FINAL).is_file()

    def _put(self, source: Path, target: Path, extra: dict[str, str]) -> bool:
        """A second name for the weights, which costs no disk; False where the disks have no such thing.

        What another run left in ``target`` is set aside, once the link is there.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                name = stack.enter_context(new_link(target, source / FINAL))
            except OSError as error:
                logger.info(
                    "pretrain: not shared between jobs, %s cannot link to it: %s", target, error.strerror
                )
                return False
            set_aside(target)
            target.mkdir(exist_ok=True)
            os.replace(name, target / FINAL)
        write_json(target / FINISHED, KIND, self._key, {**read_json(source / FINISHED, KIND), **extra})
        return True


def source_labels(host: Datasets, names: Sequence[str], mapping: str) -> str:
    """Hash of the source's annotations and class mapping: a selection says which images, not what is in them.

    Args:
        host: knows the datasets. names: of the source's.
        mapping: file of the class mapping; empty for none.
    """
    hashes = [host.dataset(name).fingerprint() for name in names]
    return content_hash([hashes, file_hash(mapping) if mapping else ""])


def disk(folder: Path) -> int:
    """Device on which a folder is, or will be made."""
    return nearest_existing(folder).stat().st_dev
