"""Politeness to the providers: few connections and requests per host, and pauses when a host asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Politeness:
    """How hard a host may be asked.

    Attributes:
        connections: requests in flight per host.
        rate: requests per second and host, 0 for no limit.
    """

    connections: int = 4
    rate: float = 20.0


class Host:
    """One host's free connections and the earliest time of its next request (of the event loop's clock)."""

    def __init__(self, politeness: Politeness) -> None:
        self._free = asyncio.Semaphore(politeness.connections)
        self._gap = 1.0 / politeness.rate if politeness.rate > 0 else 0.0
        self._next = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a connection, from the time that the next request may start."""
        async with self._free:
            await self._wait()
            yield

    async def _wait(self) -> None:
        clock = asyncio.get_running_loop().time
        while (left := self._next - clock()) > 0:
            await asyncio.sleep(left)  # and look again: the host may have asked for a pause meanwhile
        self._next = clock() + self._gap

    def pause(self, seconds: float) -> None:
        """Start no request for some time."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


class Hosts:
    """The hosts that a download talks to, by name and port.

    A connection is held for one request alone, also where it answers with a redirect to another host, so
    that two hosts that redirect to each other cannot block.
    """

    def __init__(self, politeness: Politeness) -> None:
        self._politeness = politeness
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, host: str) -> Host:
        if host not in self._hosts:
            self._hosts[host] = Host(self._politeness)
        return self._hosts[host]
