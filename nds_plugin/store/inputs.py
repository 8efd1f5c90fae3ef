"""What a store was built from, by which it knows that its sources changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, file_hash, read_json, write_json
from nds_plugin.files.locking import can_write, user_cache

_SEEN = "annotation-store-seen"
# A program can set a file's time of change back, but neither of the other two.
_STAMP = ("size", "mtime_ns", "ctime_ns", "inode")


@dataclass(frozen=True)
class Inputs:
    """The files that a store is built from.

    Attributes:
        files: annotation files, each known by its content's hash.
        tree: further files, so many that they are known by name, size and time of change only
            (Cityscapes' images of instances, VOC's XML).
        settings: JSON-able; whatever else decides the content, the version of the reader too.
        root: folder that the names of the tree are relative to, so that a tree that is moved, or
            reached by another path, is the same one; None: the names are whole paths.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    tree: Sequence[str | os.PathLike[str]] = ()
    settings: Any = None
    root: str | os.PathLike[str] | None = None

    def state(self) -> dict[str, Any]:
        """Path, size, times and inode of every file, and one digest of the tree.

        Raises:
            NDSError: a file is missing.
        """
        return {
            "files": [file_stamp(path) for path in self.files],
            "tree": content_hash([self._in_tree(path) for path in self.tree]) if self.tree else "",
            "tree_files": len(self.tree),
            "settings": self.settings,
        }

    def _in_tree(self, path: str | os.PathLike[str]) -> list[Any]:
        stat = _stat(path)
        name = os.path.abspath(path) if self.root is None else os.path.relpath(path, self.root)
        return [name, stat.st_size, stat.st_mtime_ns]

    def newest(self) -> str:
        """The file of the tree that changed last."""
        return os.fspath(max(self.tree, key=lambda path: _stat(path).st_mtime_ns))


def file_stamp(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What tells a file from what it was, without reading it.

    Raises:
        NDSError: it is missing.
    """
    stat = _stat(path)
    stamp = dict(zip(_STAMP, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)))
    return {"path": os.path.realpath(path), **stamp}


def _stat(path: str | os.PathLike[str]) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise NDSError(f"annotation file not found: {os.fspath(path)} ({error.strerror}).") from None


def with_hashes(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the SHA-256 of every annotation file; reads them once."""
    return {**state, "files": [{**file, "sha256": file_hash(file["path"])} for file in state["files"]]}


def built_from(recorded: Mapping[str, Any], inputs: Inputs, store: Path) -> str | None:
    """None if a store that recorded this state is of these inputs; else what differs, in words.

    A file whose size, times and inode are the recorded ones passes at once, wherever it lies; another
    one only if its content's hash is the recorded one, which is then remembered.

    Raises:
        KeyError, TypeError, AttributeError: what was recorded is no state.
    """
    now = inputs.state()
    if recorded["settings"] != now["settings"]:
        return "its settings, or the version of its reader, differ"
    if recorded["tree"] != now["tree"]:
        return _tree_changed(recorded["tree_files"], inputs)
    if len(recorded["files"]) != len(now["files"]):
        return f"it was built from {len(recorded['files'])} files, now there are {len(now['files'])}"
    known: dict[str, str] | None = None
    for old, new in zip(recorded["files"], now["files"]):
        if all(old[key] == new[key] for key in _STAMP):
            continue
        if old["size"] != new["size"]:
            return f"{new['path']} has {new['size']} bytes, it was built from {old['size']}"
        known = _seen(store) if known is None else known
        stamp = " ".join(str(new[key]) for key in ("path", *_STAMP))
        if stamp not in known:
            known[stamp] = file_hash(new["path"])
            _remember(store, known)
        if known[stamp] != old["sha256"]:
            return f"the content of {new['path']} changed"
    return None


def _tree_changed(before: int, inputs: Inputs) -> str:
    now = len(inputs.tree)
    if not now:
        return f"its {before} annotation files are not there any more"
    last = f"the last to change is {inputs.newest()}"
    if before != now:
        return f"it was built from {before} annotation files, now there are {now}; {last}"
    return f"some of its {now} annotation files were renamed or changed; {last}"


def _seen_path(store: Path) -> Path:
    beside = store.with_name(f".{store.name}.seen.json")
    if can_write(store.parent):
        return beside
    return user_cache() / "seen" / f"{content_hash(os.path.realpath(store))[:12]}.json"


def _seen(store: Path) -> dict[str, str]:
    try:
        return dict(read_json(_seen_path(store), _SEEN)["hashes"])
    except (NDSError, KeyError, TypeError, ValueError):
        return {}  # only a note that saves time


def _remember(store: Path, hashes: dict[str, str]) -> None:
    with contextlib.suppress(NDSError):  # nowhere to write: hashed again next time
        write_json(_seen_path(store), _SEEN, "", {"hashes": hashes})
