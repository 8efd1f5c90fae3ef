"""Checkpoints that are complete or absent, and a resume that survives a broken one.

Detectron2's checkpointer writes in place, so that a kill leaves a truncated file and a
``last_checkpoint`` that points at it. Here both are written to a temporary name, flushed to the
disk and renamed, and they hold only what ``torch.load(weights_only=True)`` accepts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detectron2.utils.comm as comm
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from nds_plugin.d2.model.initial_weights import locate, read_initial_weights
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.files.checkpoints import first_whole, plain_state, read_checkpoint, write_checkpoint
from nds_plugin.job.training_folder import LAST

EXTRA = "extra"  # the key of the extra payload in a checkpoint file
_NOT_NUMBERED = -1.0
_ITERATION = re.compile(r"_(\d+)\.pth$")


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic saves and a resume that falls back.

    * ``save`` and the tag of the last checkpoint leave the old file or the whole new one. The
      first save of a process removes what killed ones left half written.
    * Every file also holds ``extra`` under the key "extra", for what must go with the weights,
      such as the class names.
    * ``resume_or_load`` resumes at the newest whole checkpoint; a WARNING line names the broken
      one. The main process chooses, so that all ranks resume at the same.

    The folder must be local or mounted, and on several machines shared.

    Args:
        model: the model, also inside DistributedDataParallel.
        save_dir: folder of the checkpoints.
        save_to_disk: by default whether this is the main process.
        extra: tensors, numbers, strings, lists and dicts to put into every file.
        checkpointables: objects with ``state_dict()``, such as ``trainer=...``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        extra: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.extra = dict(extra or {})

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``{name}.pth`` and tag it as the last checkpoint.

        Raises:
            NDSError: the disk is full, or the state holds something that could not be loaded
                again without unpickling. The older checkpoints are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if os.path.dirname(name):
            raise NDSError(f"checkpoint name {name!r} holds a folder: give a plain name.")
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint(path, self.state(**kwargs))
        self.tag_last_checkpoint(os.path.basename(path))

    def state(self, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint file holds now: model, checkpointables, extra payload, arguments.

        Raises:
            NDSError: something in it is no tensor, number, string, list or dict. Call this once
                before training to learn of it early.
        """
        data: dict[str, Any] = {"model": self.model.state_dict()}
        for key, checkpointable in self.checkpointables.items():
            data[key] = checkpointable.state_dict()
        if self.extra:
            data[EXTRA] = self.extra
        data.update(kwargs)
        return {key: value if key == "model" else plain_state(value, key) for key, value in data.items()}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Atomically write the name of the checkpoint to resume at."""
        with atomic_write(os.path.join(self.save_dir, LAST), "w") as file:
            file.write(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume at the newest whole checkpoint of ``save_dir``; without one, load ``path``.

        Raises:
            NDSError: there was a checkpoint, but none is whole; or a rank cannot read it.
        """
        chosen = ""
        if resume:
            # Only the main process looks; its error is raised on all ranks, or they would wait.
            outcome: tuple[str, str] = ("", "")
            if comm.is_main_process() and self.has_checkpoint():
                try:
                    outcome = (find_whole_checkpoint(self.save_dir), "")
                except NDSError as error:
                    outcome = ("", str(error))
            chosen, failure = comm.all_gather(outcome)[0]
            if failure:
                raise NDSError(failure)
        if not chosen:
            return self.load(locate(path) if path else path, checkpointables=[])
        blind = [i for i, readable in enumerate(comm.all_gather(os.path.isfile(chosen))) if not readable]
        if blind:
            raise NDSError(
                f"ranks {blind} do not see the checkpoint {chosen} that rank 0 resumes at: OUTPUT_DIR must "
                "be a folder that all machines share."
            )
        return self.load(chosen)

    def _torch_load(self, f: str) -> Any:
        return read_checkpoint(f)

    def _load_file(self, filename: str) -> Any:
        if self._is_own(filename):
            data = read_checkpoint(filename)
            return data if "model" in data else {"model": data}
        # Detectron2 would unpickle it, and leave out what does not fit.
        return {"model": read_initial_weights(filename, self.model.state_dict()).state}

    def _is_own(self, filename: str) -> bool:
        """Whether a file lies where this checkpointer saves, so that it is one to resume at."""
        return bool(self.save_dir) and Path(filename).parent.resolve() == Path(self.save_dir).resolve()


def find_whole_checkpoint(save_dir: str | os.PathLike[str]) -> str:
    """The tagged checkpoint if it is whole, else the newest older one that is.

    Raises:
        NDSError: none is whole.
    """
    found, tried = first_whole(_candidates(Path(save_dir)))
    if found is not None:
        return str(found)
    raise NDSError(
        f"{save_dir} has a {LAST} file, but no whole checkpoint to resume at ({'; '.join(tried) or 'none'}): "
        "restore one, or start anew in another OUTPUT_DIR."
    )


def _candidates(save_dir: Path) -> list[Path]:
    """The tagged file, then the older ones by iteration, then those without one by time."""
    tag = (save_dir / LAST).read_text(errors="replace").strip().strip("\0")
    tagged = save_dir / tag if tag and "/" not in tag else None
    newest = _age(tagged)[0] if tagged is not None else _NOT_NUMBERED
    others = sorted((p for p in save_dir.glob("*.pth") if p != tagged), key=_age, reverse=True)
    # A checkpoint beyond the tagged one is a relic of an earlier run in the same folder.
    older = [p for p in others if newest == _NOT_NUMBERED or _age(p)[0] <= newest]
    return ([tagged] if tagged is not None else []) + older


def _age(path: Path) -> tuple[float, int, str]:
    number = _ITERATION.search(path.name)
    final = float("inf") if path.stem.endswith("_final") else _NOT_NUMBERED
    iteration = float(number[1]) if number else final
    return iteration, path.stat().st_mtime_ns if path.exists() else 0, path.name
