"""Files that are made on first use, where several processes may ask at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)


def build_once(path: str | os.PathLike[str], is_ready: Callable[[], bool], build: Callable[[], None]) -> None:
    """Build ``path`` unless it is ready: one process builds, the others wait for it.

    The lock is the kernel's (``flock`` on ``.NAME.lock`` beside the path), so it is gone when its
    holder is, even by kill -9. ``build`` must leave a whole result or none.

    Raises:
        NDSError: the folder cannot be written.
    """
    if is_ready():
        return
    import fcntl

    path = Path(path)
    lock = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise NDSError(f"cannot write {lock}: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is making %s; waiting for it.", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not is_ready():
            build()
    finally:
        os.close(descriptor)


def writable_folder(preferred: str | os.PathLike[str], name: str) -> Path:
    """``preferred`` where it can be written or made, else ``name`` in the user's cache folder.

    Nothing is made yet. The cache folder is ``$XDG_CACHE_HOME/nds_plugin`` or ``~/.cache/nds_plugin``.
    """
    folder = Path(preferred)
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if os.access(existing, os.W_OK):
        return folder
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "nds_plugin" / name
