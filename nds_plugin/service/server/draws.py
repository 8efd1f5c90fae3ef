"""Draws of the last searches, kept so that a preview's page, its manifest and its pages draw once."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Any

from nds_plugin.service.published.store import PublishedSet
from nds_plugin.service.server.selecting import Drawn, Query, draw

_AT_ONCE = 2  # a draw over millions of images takes tens of megabytes for a moment


class BusyError(Exception):
    """The server has too much to do at the moment."""


class Draws:
    """A cache of draws, bounded by the memory that it takes. Safe for several threads.

    Args:
        max_bytes: of all that is kept: four bytes a row, and scores and settings of each query.
        patience_s: seconds to wait for others' draws.
    """

    def __init__(self, max_bytes: int = 32 << 20, patience_s: float = 20.0) -> None:
        self._patience_s = patience_s
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, Query], tuple[Drawn, int]] = OrderedDict()
        self.bytes = 0
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def get(self, published: PublishedSet, query: Query) -> Drawn:
        """The draw of a query.

        Raises:
            BusyError: others' draws took too long.
            NDSError: see :func:`nds_plugin.service.server.selecting.draw`.
        """
        key = (published.id, query)
        if (found := self._find(key)) is not None:
            return found
        if not self._turn.acquire(timeout=self._patience_s):
            raise BusyError("too many searches at once; try again.")
        try:
            if (found := self._find(key)) is not None:
                return found
            made = draw(published, query)
        finally:
            self._turn.release()
        self._keep(key, made)
        return made

    def _find(self, key: tuple[str, Query]) -> Drawn | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def _keep(self, key: tuple[str, Query], made: Drawn) -> None:
        size = _size((key, made))
        with self._lock:
            if key in self._kept or size > self._max_bytes:
                return
            self._kept[key] = made, size
            self.bytes += size
            while self.bytes > self._max_bytes:
                self.bytes -= self._kept.popitem(last=False)[1][1]


def _size(held: Any) -> int:
    """Bytes of an object and of all that it holds; what several hold counts for each of them."""
    if isinstance(held, dict):
        inner = [*held, *held.values()]
    elif isinstance(held, (list, tuple)):
        inner = list(held)
    else:
        inner = list(getattr(held, "__dict__", {}).values())
    return sys.getsizeof(held) + sum(map(_size, inner))
