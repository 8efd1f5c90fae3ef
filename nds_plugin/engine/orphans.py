"""What the Linux kernel does with a process whose launcher is gone, even one that was killed and cannot see to it itself."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>


def end_with_parent(by_signal: int) -> None:
    """Let this process end by a signal when its parent does; on Linux alone."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, int(by_signal))


def adopt_orphans(adopts: bool) -> None:
    """Whether what is orphaned below this process becomes a child of it, not of the system's first; Linux."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(adopts))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
