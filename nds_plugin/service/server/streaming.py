"""Long answers: made piece by piece in worker threads, and only so many of them at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nds_plugin.service.server.problems import problem_response


class Places:
    """Places for downloads that run at the same time.

    Args:
        downloads: how many may run; each holds the rows of its draw and one piece.
        encoders: how many may make a piece at the same moment; the others wait for a thread.
    """

    def __init__(self, downloads: int, encoders: int) -> None:
        self.free = downloads
        self.encoders = anyio.CapacityLimiter(encoders)


class ManifestResponse(StreamingResponse):
    """A streamed answer that takes a place, or a 503 where all are taken.

    Args:
        pieces: the answer's bytes.
        places: of the server.
        media_type, headers: as of any answer.
    """

    def __init__(
        self, pieces: Iterator[bytes], places: Places, media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(_in_threads(pieces, places.encoders), media_type=media_type, headers=headers)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if self._places.free < 1:
            detail = "too many downloads at once; try again."
            await problem_response(503, detail, scope["path"], {"Retry-After": "10"})(scope, receive, send)
            return
        self._places.free -= 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.free += 1


async def _in_threads(pieces: Iterator[bytes], limiter: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    """Make each piece in a worker thread; a slow reader waits between pieces and holds one at most."""
    while (piece := await anyio.to_thread.run_sync(next, pieces, None, limiter=limiter)) is not None:
        if piece:
            yield piece
