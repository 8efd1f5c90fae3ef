"""Middleware around the whole app: headers, limits on bodies and times. Plain ASGI, so that streams stay streams."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nds_plugin.service.server.problems import MEDIA_TYPE, problem_document
from nds_plugin.service.server.settings import Limits

logger = logging.getLogger(__name__)
ABORT = "nds.abort"  # where a request's scope has the function that drops its connection
_MOST_HOSTS = 40
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def content_security_policy(image_hosts: Iterable[str] = ()) -> str:
    """The policy of the page: nothing from outside but thumbnails of the providers, no inline script.

    Args:
        image_hosts: origins such as ``https://images.example.org``; past 40 any https host. They come from an
            index's links: what is no plain host name and port is left out, since it could end the directive.
    """
    hosts = sorted(host for host in set(image_hosts) if _ORIGIN.fullmatch(host))
    images = " ".join(["'self'", "data:", *(hosts if len(hosts) <= _MOST_HOSTS else ["https:"])])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def refuse(
    send: Send, scope: Scope, status: int, detail: str, headers: dict[str, str] | None = None
) -> None:
    """Answer with a problem from inside a middleware."""
    body = json.dumps(problem_document(status, detail, scope["path"])).encode()
    lines = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **(headers or {})}
    raw = [(name.lower().encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})


class SecurityHeaders:
    """Adds the headers of ``HEADERS``, the content security policy and the time taken to every answer.

    Args:
        policy: makes the policy; asked for each answer, since a new set may have other hosts.
    """

    def __init__(self, app: ASGIApp, policy: Callable[[], str]) -> None:
        self.app, self._policy = app, policy
        self._fixed = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                lines = [*message.get("headers", ()), *self._fixed]
                lines.append((b"content-security-policy", self._policy().encode()))
                if not any(name == b"cache-control" for name, _ in lines):
                    lines.append((b"cache-control", b"no-store"))
                taken = (time.perf_counter() - began) * 1000
                lines.append((b"server-timing", f"total;dur={taken:.1f}".encode()))
                message = {**message, "headers": lines}
            await send(message)

        await self.app(scope, receive, with_headers)


class Defects:
    """An exception that nobody foresaw becomes a 500 that tells nothing; the log has its traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if begun or scope["type"] != "http":
                raise
            logger.exception("defect while answering %s %s", scope["method"], scope["path"])
            await refuse(send, scope, 500, "a defect of the server; its log says more.")


class BodyLimit:
    """Refuses bodies that are too large (413), compressed (415) or that arrive too slowly (408).

    A body is read here, whole, before the app sees the request.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity").lower() != "identity":
            await refuse(
                send, scope, 415, "compressed bodies are not read: send it without Content-Encoding."
            )
            return
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.body_bytes:
            await self._too_large(scope, send)
            return
        if not length and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)  # no body
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self._limits.receive_s)
        except asyncio.TimeoutError:
            detail = f"the body did not arrive within {self._limits.receive_s:g} seconds."
            await refuse(send, scope, 408, detail, {"Connection": "close"})
            return
        if body is None:
            await self._too_large(scope, send)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(pieces)  # the client is gone
            size += len(message.get("body", b""))
            if size > self._limits.body_bytes:
                return None
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(pieces)

    async def _too_large(self, scope: Scope, send: Send) -> None:
        detail = f"the body is larger than the {self._limits.body_bytes} bytes that are read."
        await refuse(send, scope, 413, detail, {"Connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then what the connection itself says (that the client is gone)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


class Timeouts:
    """An answer must begin in time (503 otherwise), and a client must take what it asked for."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watch = _Watch()
        begun = False

        async def timed(message: Message) -> None:
            nonlocal begun
            begun = True
            # A client that stops reading would hold the download's memory for ever.
            watch.within(self._limits.stall_s)
            await send(message)
            watch.stop()

        watch.within(self._limits.respond_s)
        try:
            await self.app(scope, receive, timed)
        except asyncio.CancelledError:
            if not watch.expired:
                raise
            if begun:
                # Nothing more can be said on this connection, not even what is in its buffer.
                logger.info("%s: not read for %g s, connection closed", scope["path"], self._limits.stall_s)
                if ABORT in scope:
                    scope[ABORT]()
                return
            await refuse(send, scope, 503, "the server is too busy; try again.", {"Retry-After": "10"})
        finally:
            watch.stop()


class _Watch:
    """Cancels the task that made it when a step takes too long; a timer, no task of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    def within(self, seconds: float) -> None:
        """The step that begins now must end, by :meth:`stop`, in so many seconds."""
        self.stop()
        self._timer = self._loop.call_later(seconds, self._expire)

    def stop(self) -> None:
        """The step has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()
