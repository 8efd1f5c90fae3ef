"""Draws of the last searches, kept so that a preview's page, its manifest and its pages draw once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from nds_plugin.service.published.store import PublishedSet
from nds_plugin.service.server.selecting import Drawn, Query, draw

_AT_ONCE = 2  # a draw over millions of images takes tens of megabytes for a moment


class BusyError(Exception):
    """The server has too much to do at the moment."""


class Draws:
    """A cache of draws, bounded by the number of rows in it. Safe for several threads.

    Args:
        max_rows: rows kept in all, four bytes each.
        patience_s: seconds to wait for others' draws.
    """

    def __init__(self, max_rows: int = 8_000_000, patience_s: float = 20.0) -> None:
        self._patience_s = patience_s
        self._max_rows = max_rows
        self._kept: OrderedDict[tuple[str, Query], Drawn] = OrderedDict()
        self._rows = 0
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
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, Query], made: Drawn) -> None:
        with self._lock:
            if key in self._kept or len(made.rows) > self._max_rows:
                return
            self._kept[key] = made
            self._rows += len(made.rows)
            while self._rows > self._max_rows:
                self._rows -= len(self._kept.popitem(last=False)[1].rows)
