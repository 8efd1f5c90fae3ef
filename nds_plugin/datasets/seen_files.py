"""What a store saw of files too many to be looked at whenever it is opened: a sample of them is looked at.

OpenImages has millions of images and, unpacked, of masks. While its store is built a note is left beside
it of some files that were not there, to notice when they come, and of some that were, to notice when they
are written anew. A change of a few among very many may pass unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_json, write_json

KIND = "seen-files"
SAMPLE = 1000  # files of a kind that are looked at, which takes some milliseconds; our choice
_ABSENT = [-1, -1]


def note_path(store: Path) -> Path:
    """Where the note of a store lies."""
    return store.with_suffix(".seen.json")


def sample(rows: npt.NDArray[np.int64], size: int = SAMPLE) -> npt.NDArray[np.int64]:
    """At most so many of some rows, evenly drawn."""
    if len(rows) <= size:
        return rows
    return rows[np.linspace(0, len(rows) - 1, size).astype(np.int64)]


class SeenFiles:
    """Collects the files of a note.

    Args:
        folder: that their names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, list[int]] = {}

    def add_missing(self, names: Sequence[str]) -> None:
        """Files that were not there when the reader looked for them, whatever is there by now."""
        self._files.update(dict.fromkeys(names, _ABSENT))

    def add_read(self, names: Sequence[str]) -> None:
        """Files that were read."""
        self._files.update((name, _state(self._folder / name)) for name in names)

    def write(self, note: Path) -> None:
        """Write the note.

        Raises:
            NDSError: it cannot be written.
        """
        write_json(note, KIND, "", {"files": [[name, *state] for name, state in self._files.items()]})


def what_changed(note: Path, folder: Path) -> str | None:
    """What became of the files of a note, in words; None if they are as they were."""
    try:
        files: list[list[Any]] = read_json(note, KIND)["files"]
    except (NDSError, KeyError):
        return f"{note.name} cannot be read"
    changed = [name for name, *state in files if state != _state(folder / name)]
    if not changed:
        return None
    return (
        f"{len(changed)} of {len(files)} files looked at came, went or changed, first {folder / changed[0]}"
    )


def _state(path: Path) -> list[int]:
    try:
        stat = os.stat(path)
    except OSError:
        return _ABSENT
    return [stat.st_size, stat.st_mtime_ns]
