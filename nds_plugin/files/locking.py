"""Locks between processes that share a folder, and files that are made on first use by one of them.

The locks are the kernel's (``flock``), so that they are gone when their holder is, even by kill -9.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nds_plugin.errors import CannotWriteError
from nds_plugin.files.artifacts import check_writable

logger = logging.getLogger(__name__)

NAME = ".lock"  # of a whole folder
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def build_once(path: str | os.PathLike[str], is_ready: Callable[[], bool], build: Callable[[], None]) -> None:
    """Build ``path`` unless it is ready: one process builds, the others wait for it.

    The lock is ``.NAME.lock`` beside the path. ``build`` must leave a whole result or none.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    if is_ready():
        return
    path = Path(path)
    with held(path.parent / f".{path.name}.lock", f"another process is making {path}; waiting for it."):
        if not is_ready():
            build()


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only process in the block for this folder; the others wait for as long as it takes.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    check_writable(folder)
    with held(Path(folder) / NAME, f"waiting for another process that works in {folder}."):
        yield


def try_lock(path: str | os.PathLike[str]) -> int | None:
    """The descriptor of a lock file that this process now holds, None where another one does.

    Closing the descriptor, in this process and in all that inherited it, releases the lock.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    path = Path(path)
    check_writable(path.parent)
    descriptor = _open(path)
    try:
        if _flock(descriptor, path, wait=False):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextlib.contextmanager
def held(lock: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file, which is made if need be; where another process has it, log ``waiting`` and wait.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    descriptor = _open(lock)
    try:
        if not _flock(descriptor, lock, wait=False):
            logger.info("%s", waiting)
            _flock(descriptor, lock, wait=True)
        yield
    finally:
        os.close(descriptor)


def _open(lock: Path) -> int:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CannotWriteError(f"cannot write {lock}: {error.strerror}.") from None
    with contextlib.suppress(OSError):  # of another user, who has made it usable
        os.fchmod(descriptor, 0o666)  # whatever the umask: others who share the folder lock it, too
    return descriptor


def _flock(descriptor: int, lock: Path, wait: bool) -> bool:
    """Whether the lock is held now."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise CannotWriteError(
            f"cannot lock {lock}: {error.strerror}. Its file system has no file locks (on NFS: mount it with "
            "locks, or with local_lock=flock); else make the file on a machine whose disk has them, and copy it there."
        ) from None
    return True


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
