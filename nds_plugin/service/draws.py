"""Draws of the last searches, kept so that a preview's page, its manifest and its pages draw once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from nds_plugin.service.selecting import Drawn, Query, draw
from nds_plugin.service.store import PublishedSet

_AT_ONCE = 2  # a draw over millions of images takes tens of megabytes for a moment


class Draws:
    """A cache of draws, bounded by the number of rows in it. Safe for several threads.

    Args:
        max_rows: rows kept in all, four bytes each.
    """

    def __init__(self, max_rows: int = 8_000_000) -> None:
        self._max_rows = max_rows
        self._kept: OrderedDict[tuple[str, Query], Drawn] = OrderedDict()
        self._rows = 0
        self._lock = threading.Lock()
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def get(self, published: PublishedSet, query: Query) -> Drawn:
        """The draw of a query.

        Raises:
            NDSError: see :func:`nds_plugin.service.selecting.draw`.
        """
        key = (published.id, query)
        if (found := self._find(key)) is not None:
            return found
        with self._turn:
            if (found := self._find(key)) is not None:
                return found
            made = draw(published, query)
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
