"""Checkpoints that are whole or absent, load without unpickling code, and a resume that survives a broken one.

MMEngine writes a checkpoint in place, after it has removed the one before where few are kept, and puts objects
into it that newer versions of torch refuse to load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.files.checkpoints import first_whole, plain_state, why_broken
from nds_plugin.job.training_folder import LAST

BACKEND = "nds_atomic"
_HISTORY = "nds_history"  # marks a HistoryBuffer that was taken apart


class AtomicBackend(LocalBackend):
    """Local files, each written to a temporary name, flushed and renamed."""

    def put(self, obj: bytes, filepath: str | os.PathLike[str]) -> None:
        """Write bytes; the old file stays until the new one is whole."""
        with atomic_write(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | os.PathLike[str], encoding: str = "utf-8") -> None:
        """Write text in the same way."""
        self.put(obj.encode(encoding), filepath)


register_backend(BACKEND, AtomicBackend, force=True)


@HOOKS.register_module()
class NDSCheckpointHook(CheckpointHook):
    """MMEngine's hook, for ``default_hooks=dict(checkpoint=dict(type="NDSCheckpointHook", interval=...))``.

    * A checkpoint is whole or absent, and the older ones are removed after that (``max_keep_ckpts``).
    * It holds tensors, numbers, text, lists and dicts alone, so that every version of torch loads it by
      ``weights_only=True``.
    * A run that is resumed goes on from the newest whole checkpoint; a WARNING names the broken one. Nothing
      else is looked at before it has been read without unpickling code.

    Args:
        interval, save_best, ...: see the stock hook. By iterations, unless ``by_epoch`` is set.
    """

    def __init__(
        self, interval: int = -1, by_epoch: bool = False, max_keep_ckpts: int = -1, **kwargs: Any
    ) -> None:
        for name in ("backend_args", "file_client_args"):
            if kwargs.pop(name, None) is not None:
                raise NDSError(
                    f"NDSCheckpointHook writes local or mounted files: take {name} away, or use CheckpointHook."
                )
        super().__init__(interval=interval, by_epoch=by_epoch, backend_args={"backend": BACKEND}, **kwargs)
        self._keep = max_keep_ckpts  # the stock hook would remove first and save then

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint to resume at; the main process does, for all."""
        if not runner._resume or runner._has_loaded:
            return
        outcome: list[Any] = [None, ""]
        if is_main_process():
            try:
                outcome = [self._chosen(runner), ""]
            except NDSError as error:  # the other ranks wait
                outcome = [None, str(error)]
        broadcast_object_list(outcome)
        if outcome[1]:
            raise NDSError(outcome[1])
        runner._load_from, runner._resume = outcome[0], outcome[0] is not None

    def _chosen(self, runner: Any) -> str | None:
        if runner._load_from is not None:
            broken = why_broken(runner._load_from)
            if broken:
                raise NDSError(f"cannot resume at it: {broken}")
            return str(runner._load_from)
        found, tried = first_whole(self._candidates(Path(runner.work_dir)))
        if tried and found is None:
            raise NDSError(
                f"{runner.work_dir} has no whole checkpoint to resume at ({'; '.join(tried)}): restore one, or start anew in "
                "another work_dir."
            )
        return None if found is None else str(found)

    def _candidates(self, work_dir: Path) -> Iterator[Path]:
        """The tagged file, then the older ones, newest first; those beyond it are of an earlier run."""
        folder = work_dir if self.out_dir is None else Path(self.out_dir) / work_dir.name
        tag = work_dir / LAST
        name = tag.read_text(errors="replace").strip().strip("\0") if tag.is_file() else ""
        tagged = Path(name) if name and Path(name).is_file() else None
        numbered = self._numbered(folder)
        if tagged is not None:
            yield tagged
            limit = next((number for number, path in numbered if path.name == tagged.name), None)
            numbered = [(n, path) for n, path in numbered if limit is None or n < limit]
        yield from (path for _, path in reversed(numbered))

    def _numbered(self, folder: Path) -> list[tuple[int, Path]]:
        """Checkpoints of a folder by their numbers."""
        pattern = re.compile(re.escape(self.filename_tmpl).replace(r"\{\}", r"(\d+)"))
        found = [(pattern.fullmatch(path.name), path) for path in folder.glob("*.pth")]
        return sorted((int(match[1]), path) for match, path in found if match)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save where it is time, then remove what is not to be kept."""
        before = self.last_ckpt
        super().after_train_iter(runner, *args, **kwargs)
        self._prune(before)

    def after_train_epoch(self, runner: Any) -> None:
        """The same by epochs."""
        before = self.last_ckpt
        super().after_train_epoch(runner)
        self._prune(before)

    def _prune(self, before: str | None) -> None:
        if self._keep < 1 or self.last_ckpt in (None, before) or not is_main_process():
            return
        newest = Path(str(self.last_ckpt))
        numbered = self._numbered(newest.parent)
        own = next((number for number, path in numbered if path.name == newest.name), 0)
        for _, path in [(n, path) for n, path in numbered if n <= own][: -self._keep]:
            path.unlink(missing_ok=True)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Leave only what loads without unpickling code; the last of the hooks to see a checkpoint."""
        del runner
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = {name: _taken_apart(value) for name, value in hub["log_scalars"].items()}
        for name in [name for name in checkpoint if name != "state_dict"]:
            checkpoint[name] = plain_state(checkpoint[name], name)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Put MMEngine's own objects together again."""
        del runner
        scalars = checkpoint.get("message_hub", {}).get("log_scalars", {})
        for name, value in scalars.items():
            if isinstance(value, dict) and _HISTORY in value:
                logs, counts = (value[part].numpy() for part in ("values", "counts"))
                scalars[name] = HistoryBuffer(logs, counts, max_length=value[_HISTORY])


def _taken_apart(value: Any) -> Any:
    if not isinstance(value, HistoryBuffer):
        return value
    logs, counts = (torch.from_numpy(np.asarray(part).copy()) for part in value.data)
    return {_HISTORY: int(value.max_length), "values": logs, "counts": counts}
