"""Locks between processes that share a folder. The system lets go of them when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from nds_plugin.artifacts import check_writable

logger = logging.getLogger(__name__)

NAME = ".lock"


def try_lock(path: str | os.PathLike[str]) -> int | None:
    """The descriptor of a lock file that this process now holds, None where another one does.

    Closing the descriptor, in this process and in all that inherited it, releases the lock.
    """
    check_writable(Path(path).parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only process in the block for this folder; the others wait for as long as it takes."""
    check_writable(folder)
    with open(Path(folder) / NAME, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that works in %s.", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
