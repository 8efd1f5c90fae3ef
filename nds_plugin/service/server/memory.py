"""Make the process give back what it no longer uses, so that its size follows its work."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h of glibc
_LARGE = 1 << 20


def keep_small() -> None:
    """Set up the allocators of this process; called before any work.

    glibc keeps an arena per thread, and blocks that it once gave out for large arrays: in a server of
    many threads that each draw from millions of images now and then, that is several hundred MB for
    nothing. Arrow's own pools keep freed memory likewise, so that Arrow is told to use malloc.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        malloc = ctypes.CDLL(None).mallopt
        malloc(_M_ARENA_MAX, 2)
        malloc(_M_MMAP_THRESHOLD, _LARGE)
