"""The host of the job: datasets by name, folders of classes of one's own, and torch's processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nds_plugin.datasets.class_folder import ClassFolder
from nds_plugin.errors import NDSError, did_you_mean
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.host import Boxes
from nds_plugin.ssl.processes import TorchProcesses

_KEYS = {"FOLDER": "folder", "CLASSES": "classes_like", "PART": "part", "TEST_EVERY": "test_every"}


@dataclass(frozen=True)
class FolderOfClasses(ClassFolder):
    """A folder of classes as the pipeline asks for it: without boxes."""

    def boxes(self) -> Boxes:
        return Boxes([], [], np.zeros((0, 4)), np.zeros(0, np.int64))


class SSLHost(TorchProcesses, FilesHost):  # type: ignore[override]
    """A :class:`~nds_plugin.pipeline.host.Host` on the names of :class:`FilesHost` and torch's processes.

    Args:
        folders: folders of classes of one's own, ``{name: {"FOLDER": ..., "CLASSES": ..., "PART": ..., "TEST_EVERY": ...}}``,
            all but the first with a default.
    """

    def __init__(self, folders: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        FilesHost.__init__(self)
        for name, told in (folders or {}).items():
            self._add(name, _folder(name, told))


def _folder(name: str, told: Any) -> FolderOfClasses:
    if not isinstance(told, Mapping) or "FOLDER" not in told:
        raise NDSError(
            f"FOLDERS.{name}: expected FOLDER: path, and CLASSES, PART, TEST_EVERY beside it, got {told!r}."
        )
    for key in told:
        if key not in _KEYS:
            raise NDSError(f"FOLDERS.{name}: unknown key {key}.{did_you_mean(str(key), _KEYS)}")
        kind, words = (int, "a whole number") if key == "TEST_EVERY" else (str, "text")
        if type(told[key]) is not kind:
            raise NDSError(f"FOLDERS.{name}.{key} must be {words}, got {told[key]!r}.")
    return FolderOfClasses(name, **{_KEYS[key]: value for key, value in told.items()})
