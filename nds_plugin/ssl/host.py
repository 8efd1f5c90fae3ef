"""The host of the job: datasets by name, folders of classes of one's own, and torch's processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nds_plugin.datasets.class_folder import ClassFolder
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.host import Boxes
from nds_plugin.ssl.folders import KEYS, check_folder
from nds_plugin.ssl.processes import TorchProcesses


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


def _folder(name: str, told: Mapping[str, Any]) -> FolderOfClasses:
    check_folder(name, told)
    return FolderOfClasses(name, **{KEYS[key]: value for key, value in told.items()})
