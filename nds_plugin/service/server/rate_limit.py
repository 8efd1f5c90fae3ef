"""Requests per minute of one address."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from nds_plugin.service.server.security import refuse
from nds_plugin.service.server.settings import Limits

_MOST_ADDRESSES = 20_000


class RateLimit:
    """A bucket of requests for each address: 429 with Retry-After when it is empty.

    Addresses are those of the connections; behind a proxy, uvicorn puts the client's there where
    ``--forwarded-allow-ips`` names the proxy. IPv6 addresses count by their /64 network.

    Args:
        heavy: tells the requests that cost much, which have a bucket of their own.
        free: tells the requests that do not count.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        heavy: Callable[[Scope], bool],
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self.app, self._limits, self._heavy, self._clock = app, limits, heavy, clock
        self._free = free
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait = self.wait(scope) if scope["type"] == "http" else 0.0
        if wait > 0:
            seconds = str(max(1, int(wait + 0.999)))
            detail = f"too many requests: try again in {seconds} seconds."
            await refuse(send, scope, 429, detail, {"Retry-After": seconds})
            return
        await self.app(scope, receive, send)

    def wait(self, scope: Scope) -> float:
        """Seconds to wait before this request would be taken; 0 takes it."""
        if self._free(scope):
            return 0.0
        address = _network((scope.get("client") or ("", 0))[0])
        limits = self._limits
        wait = self._take((address, False), limits.requests_per_minute, limits.burst)
        if wait == 0.0 and self._heavy(scope):
            wait = self._take(
                (address, True), limits.heavy_per_minute, min(limits.burst, limits.heavy_per_minute)
            )
        return wait

    def _take(self, key: tuple[str, bool], per_minute: int, burst: int) -> float:
        if per_minute <= 0:
            return 0.0
        now = self._clock()
        level, then = self._buckets.pop(key, (float(burst), now))
        level = min(float(burst), level + (now - then) * per_minute / 60)
        wait = 0.0 if level >= 1 else (1 - level) * 60 / per_minute
        self._buckets[key] = (level - 1 if wait == 0.0 else level, now)
        while len(self._buckets) > _MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return wait


def _network(address: str) -> str:
    """Whose requests count together: an IPv4 address, also one in IPv6's form, or a /64 network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found), 64), strict=False))
    return str(found)
