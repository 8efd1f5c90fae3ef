"""Locks between processes that share a folder, and files that are made on first use by one of them.

The locks are the kernel's (``flock``), so that they are gone when their holder is, even by kill -9.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from nds_plugin.errors import NoLocksError
from nds_plugin.files.artifacts import cannot_write, check_writable, nearest_existing
from nds_plugin.files.temporary import NO_LOCKS

logger = logging.getLogger(__name__)

APPLICATION = "nds_plugin"
NAME = ".lock"  # of a whole folder


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


class HeldLock:
    """A lock file that this process holds; :meth:`release` gives it up."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        opened: list[int] = []
        self._path = Path(path)
        # A soft lock would outlive its holder, and a file that is removed on release lets two hold the lock.
        self._lock = FileLock(
            path, mode=0o666, thread_local=False, fallback_to_soft=False, preserve_lock_file=True,
            on_acquired=opened.append,
        )  # fmt: skip
        self._opened = opened

    @property
    def descriptor(self) -> int:
        """The descriptor: a process that inherits it holds the lock even after this one was killed."""
        return self._opened[-1]

    def acquire(self, patience: float) -> bool:
        """Whether the lock is held now.

        Args:
            patience: seconds to wait for it; for ever if below 0.

        Raises:
            NDSError: the file cannot be written, or its file system has no locks.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise cannot_write(self._path, error) from None
            raise NoLocksError(
                f"cannot lock {self._path}: {error.strerror}. Its file system has no file locks (on NFS: mount it "
                "with locks, or with local_lock=flock); else make the file on a machine whose disk has them, and "
                "copy it there."
            ) from None
        return True

    def release(self) -> None:
        """Give the lock up, also in the name of all processes that inherited the descriptor."""
        self._lock.release()


def try_lock(path: str | os.PathLike[str], patience: float = 0.0) -> HeldLock | None:
    """A lock that this process now holds, None where another one still does after so many seconds.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    check_writable(Path(path).parent)
    lock = HeldLock(path)
    return lock if lock.acquire(patience) else None


@contextlib.contextmanager
def held(path: str | os.PathLike[str], waiting: str) -> Iterator[None]:
    """Hold a lock file, which is made if need be; where another process has it, log ``waiting`` and wait.

    Raises:
        NDSError: the folder cannot be written, or its file system has no locks.
    """
    lock = HeldLock(path)
    if not lock.acquire(0):
        logger.info("%s", waiting)
        lock.acquire(-1)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def turn(path: str | os.PathLike[str], waiting: str) -> Iterator[None]:
    """:func:`held`; where the file system has no locks, a warning.

    Raises:
        NDSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(path, waiting))
        except NoLocksError:
            warn_of_no_locks(Path(path).parent)
        yield


def turn_in(folder: str | os.PathLike[str]) -> contextlib.AbstractContextManager[None]:
    """:func:`turn` of a whole folder: commands that write into it would take each other's files away.

    None is needed where nothing can be written; what is finished there can still be read.
    """
    if not can_write(folder):
        return contextlib.nullcontext()
    return turn(Path(folder) / NAME, f"waiting for another process that works in {folder}.")


def warn_of_no_locks(folder: str | os.PathLike[str]) -> None:
    """Say that nothing keeps two processes apart in a folder."""
    logger.warning("%s is on a file system without locks: see to it that no other job runs in it.", folder)


def can_write(folder: str | os.PathLike[str]) -> bool:
    """Whether files can be written in a folder, or it can be made."""
    return os.access(nearest_existing(folder), os.W_OK)


def user_cache() -> Path:
    """The package's folder in the user's cache, for example ``$XDG_CACHE_HOME/nds_plugin``, ``~/.cache/nds_plugin``."""
    return platformdirs.user_cache_path(APPLICATION, appauthor=False)


def writable_folder(preferred: str | os.PathLike[str], name: str) -> Path:
    """``preferred`` where it can be written or made, else ``name`` in the user's cache folder.

    Nothing is made yet; see :func:`user_cache`.
    """
    return Path(preferred) if can_write(preferred) else user_cache() / name
