"""Temporary files beside their destination, and the removal of those that killed processes left.

A writer holds a lock of the kernel (``flock``) on its file for as long as that has its temporary name,
``.NAME.nds-KERNEL-RANDOM.tmp``; the lock is gone when its holder is, even by kill -9. The first write of a
process into a folder removes the temporary files there that no one holds. Where a lock tells nothing
(the file system has none, or the name was given under another kernel, whose locks it need not share),
a file counts as abandoned once nothing was written to it for a day.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

ABANDONED = 24 * 3600.0  # seconds; our choice, far beyond the longest pause of a write
_NAME = re.compile(r"\..+\.nds-([0-9a-f]{8})-[a-z0-9_]{8}\.tmp")
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system without locks
_swept: set[str] = set()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[tuple[int, str]]:
    """A new, empty file beside ``path``: a descriptor, which the block closes, and the file's name.

    What has the name at the end of the block is removed.
    """
    _sweep_once(path.parent)
    descriptor, name = _create(path)
    lock = os.dup(descriptor)  # stays when the file is closed: the name is held until it is given up
    try:
        yield descriptor, name
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
        os.close(lock)


@contextlib.contextmanager
def new_link(path: Path, source: Path) -> Iterator[str]:
    """A second name of the file ``source`` beside ``path``; removed at the end of the block if still there."""
    _sweep_once(path.parent)
    lock = os.open(source, os.O_RDONLY)
    try:
        _flock(lock, shared=True)  # before the name is there, so that it is never seen without
        name = os.fspath(path.with_name(f"{_prefix(path)}{os.urandom(4).hex()}.tmp"))
        os.link(source, name)
        try:
            yield name
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)
    finally:
        os.close(lock)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files in a folder that killed processes left; their names.

    Safe beside live writers: of other processes, in other containers, and on other machines.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.path, match[1]) for entry in entries if (match := _NAME.fullmatch(entry.name))]
        removed = [os.path.basename(path) for path, kernel in found if _removed(path, kernel)]
        if removed:
            logger.info(
                "removed from %s what a killed process left half written: %s", folder, ", ".join(removed)
            )
        return removed
    return []


def is_temporary(name: str) -> bool:
    """Whether a file name is one that a writer gives until its file is whole."""
    return _NAME.fullmatch(name) is not None


def _sweep_once(folder: Path) -> None:
    # Once in a process: folders of thousands of files are written file by file.
    place = os.path.realpath(folder)
    if place not in _swept:
        _swept.add(place)
        remove_leftovers(folder)


def _create(path: Path) -> tuple[int, str]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
        _flock(descriptor, shared=True)
        # Between the two calls another process may have taken it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name), os.fstat(descriptor)):
                return descriptor, name
        os.close(descriptor)


def _removed(path: str, kernel: str) -> bool:
    """Remove a temporary file unless a writer may be at work on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)  # to write: else NFS gives no exclusive lock
    except OSError:
        return False  # gone, or of another user
    try:
        held = _flock(descriptor, shared=False)
        if held is False:
            return False
        # Not the time of the content: a second name for an old file is new.
        age = time.time() - os.fstat(descriptor).st_ctime
        if (held is None or kernel != _kernel()) and age < ABANDONED:
            return False
        os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _flock(descriptor: int, *, shared: bool) -> bool | None:
    """Take a writer's lock, waiting for it, or try for the sole one; None where there are no locks.

    Several writers may share one: those who give a second name to the same file.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _prefix(path: Path) -> str:
    return f".{path.name}.nds-{_kernel()}-"


@functools.cache
def _kernel() -> str:
    """What the processes have in common among which ``flock`` holds everywhere: containers share it, too."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]
