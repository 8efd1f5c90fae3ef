"""uvicorn's HTTP protocol with a limit on the size of a request's head and on the time it may take.

uvicorn waits for ever for the end of the headers of a new request, of any length; a few hundred slow
connections would then keep others out, and a long head would fill the memory.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nds_plugin.service.server.security import ABORT

MAX_HEAD = 32 * 1024
HEAD_SECONDS = 10.0


class GuardedProtocol(HttpToolsProtocol):
    """Answers 431 to a head of more than ``MAX_HEAD`` bytes and 408 to one that takes too long."""

    head_seconds = HEAD_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # A whole small request with its body may be longer than the head's limit.
        if self._in_head and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Start the clock of a further request on the connection, and let the app drop the connection."""
        if not self._in_head:
            self._expect_head()
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        """Stop the clock."""
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._stop_clock()
        self._timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse("408 Request Timeout")

    def _refuse(self, status: str) -> None:
        self._stop_clock()
        lines = (f"HTTP/1.1 {status}", "content-length: 0", "connection: close", "", "")
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()
