"""Files that are made on first use, where several processes may ask at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def build_once(path: str | os.PathLike[str], is_ready: Callable[[], bool], build: Callable[[], None]) -> None:
    """Build ``path`` unless it is ready: one process builds, the others wait for it.

    The lock is the kernel's (``flock`` on ``.NAME.lock`` beside the path), so it is gone when its
    holder is, even by kill -9. ``build`` must leave a whole result or none.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    if is_ready():
        return
    path = Path(path)
    lock = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise NDSError(f"cannot write {lock}: {error.strerror}.") from None
    try:
        with contextlib.suppress(OSError):  # of another user, who has made it usable
            os.fchmod(descriptor, 0o666)  # whatever the umask: others who share the folder lock it, too
        _lock(descriptor, path, lock)
        if not is_ready():
            build()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, lock: Path) -> None:
    import fcntl

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is making %s; waiting for it.", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise NDSError(
            f"cannot lock {lock}: {error.strerror}. Its file system has no file locks (on NFS: mount it with "
            "locks, or with local_lock=flock); else make the file on a machine whose disk has them, and copy it there."
        ) from None


def can_write(folder: str | os.PathLike[str]) -> bool:
    """Whether files can be written in a folder, or it can be made."""
    existing = Path(folder).absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return os.access(existing, os.W_OK)


def user_cache() -> Path:
    """The package's folder in the user's cache: ``$XDG_CACHE_HOME/nds_plugin`` or ``~/.cache/nds_plugin``."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "nds_plugin"


def writable_folder(preferred: str | os.PathLike[str], name: str) -> Path:
    """``preferred`` where it can be written or made, else ``name`` in the user's cache folder.

    Nothing is made yet; see :func:`user_cache`.
    """
    return Path(preferred) if can_write(preferred) else user_cache() / name
