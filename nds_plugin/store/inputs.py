"""What a store was built from, by which it knows that its sources changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nds_plugin.artifacts import content_hash, file_hash, read_json, write_json
from nds_plugin.errors import NDSError

_SEEN = "annotation-store-seen"


@dataclass(frozen=True)
class Inputs:
    """The files that a store is built from.

    Attributes:
        files: annotation files, each known by its content's hash.
        tree: further files, so many that they are known by name, size and time of change only
            (Cityscapes' images of instances, VOC's XML).
        settings: JSON-able; whatever else decides the content.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    tree: Sequence[str | os.PathLike[str]] = ()
    settings: Any = None

    def state(self) -> dict[str, Any]:
        """Path, size and time of change of every file, and one digest of the tree.

        Raises:
            NDSError: a file is missing.
        """
        return {
            "files": [_stat(path) for path in self.files],
            "tree": content_hash([_stat(path) for path in self.tree]) if self.tree else "",
            "tree_files": len(self.tree),
            "settings": self.settings,
        }


def _stat(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise NDSError(f"annotation file not found: {os.fspath(path)} ({error.strerror}).") from None
    return {"path": os.path.abspath(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def with_hashes(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the SHA-256 of every annotation file; reads them once."""
    return {**state, "files": [{**file, "sha256": file_hash(file["path"])} for file in state["files"]]}


def built_from(recorded: dict[str, Any], inputs: Inputs, store: Path) -> str | None:
    """None if a store that recorded this state is of these inputs; else what differs, in words.

    Unchanged size and time of change pass at once; another time, or another place, only if the
    content's hash is the recorded one, which is then remembered beside the store.
    """
    now = inputs.state()
    if recorded.get("settings") != now["settings"]:
        return "its settings differ"
    if recorded.get("tree") != now["tree"]:
        return f"of its {now['tree_files']} annotation files some were added, removed or changed"
    if len(recorded.get("files", ())) != len(now["files"]):
        return f"it was built from {len(recorded.get('files', ()))} files, now there are {len(now['files'])}"
    known = {**_seen(store)}
    for old, new in zip(recorded["files"], now["files"]):
        if all(old[key] == new[key] for key in ("path", "size", "mtime_ns")):
            continue
        if old["size"] != new["size"]:
            return f"{new['path']} has {new['size']} bytes, it was built from {old['size']}"
        stamp = f"{new['path']} {new['size']} {new['mtime_ns']}"
        if stamp not in known:
            known[stamp] = file_hash(new["path"])
            _remember(store, known)
        if known[stamp] != old["sha256"]:
            return f"the content of {new['path']} changed"
    return None


def _seen_path(store: Path) -> Path:
    return store.with_name(f".{store.name}.seen.json")


def _seen(store: Path) -> dict[str, str]:
    path = _seen_path(store)
    if not path.exists():
        return {}
    try:
        return dict(read_json(path, _SEEN)["hashes"])
    except (NDSError, KeyError):
        return {}  # only a note that saves time


def _remember(store: Path, hashes: dict[str, str]) -> None:
    with contextlib.suppress(NDSError):  # a read-only folder: hashed again next time
        write_json(_seen_path(store), _SEEN, "", {"hashes": hashes})
