"""One image from its provider: redirects, retries, checks. Nothing that was not checked is put in place."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import DISK_FULL, cannot_write
from nds_plugin.service.client.checks import (
    Checksum,
    Digests,
    image_fault,
    is_placeholder_page,
    known_placeholders,
    parse_checksum,
)
from nds_plugin.service.client.hosts import Host, Hosts
from nds_plugin.service.client.ledger import Entry
from nds_plugin.service.client.manifest import Wanted
from nds_plugin.service.client.retrying import TEMPORARY, back_off, retry_after

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_PORTS = range(1, 65_536)
# Reasons that another run may overcome by itself.
TRY_AGAIN = ("timeout", "connection", "cut short", "server error", "too many requests")


@dataclass(frozen=True)
class FetchConfig:
    """How an image is fetched.

    Attributes:
        retries: further attempts after a failure that may pass.
        timeout: seconds without a byte, and to connect.
        deadline: seconds for one attempt as a whole, which ends a body that trickles in.
        longest_pause: seconds of ``Retry-After`` that are waited for; beyond that the image is left for
            another run.
        max_bytes: of one image.
        placeholders: MD5 of pictures that stand for removed photos.
    """

    retries: int = 4
    timeout: float = 20.0
    deadline: float = 120.0
    longest_pause: float = 120.0
    max_bytes: int = 64 << 20
    placeholders: frozenset[str] = field(default_factory=known_placeholders)

    def __post_init__(self) -> None:
        if self.retries < 0 or self.max_bytes < 1:
            raise NDSError(
                f"retries must be 0 or more and max_bytes 1 or more, got {self.retries}, {self.max_bytes}."
            )
        if not min(self.timeout, self.deadline) > 0 or not self.longest_pause >= 0:
            raise NDSError(
                f"timeout and deadline must be more than 0 seconds, got {self.timeout} and {self.deadline}."
            )


class _FailedError(Exception):
    """An attempt came to nothing."""

    def __init__(self, reason: str, detail: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.again, self.wait = reason, detail, again, wait


class Fetcher:
    """Fetches images into a folder.

    Args:
        client: without redirects of its own.
        hosts, slots: free connections per host and in all; an image that waits to be tried again holds none.
        folder: of the images; :attr:`Wanted.path` is relative to it.
        parts: for files that are not whole yet, on the same disk as ``folder``.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        hosts: Hosts,
        slots: asyncio.Semaphore,
        folder: Path,
        parts: Path,
        config: FetchConfig,
    ) -> None:
        self._client, self._hosts, self._slots = client, hosts, slots
        self._folder, self._parts, self._config = folder, parts, config
        self._number = 0
        self._decoding = asyncio.Lock()

    async def fetch(self, wanted: Wanted) -> Entry:
        """Fetch one image, as often as it takes; its entry says what came of it.

        Raises:
            NDSError: the disk is full or the folder cannot be written.
        """
        self._number += 1
        part = self._parts / str(self._number)
        try:
            return await self._attempts(wanted, part)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise cannot_write(self._folder / wanted.path, error) from error
            # A name that this file system does not take, or a file where a folder should be.
            detail = f"{self._folder / wanted.path}: {error.strerror}"
            return Entry(wanted.path, wanted.url, wanted.checksum, "file", detail)
        except Exception as error:
            # Whatever the layers below raise at an address or an answer: one image does not stop the others.
            detail = f"{type(error).__name__}: {error}"[:200]
            return Entry(wanted.path, wanted.url, wanted.checksum, "connection", detail)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    async def _attempts(self, wanted: Wanted, part: Path) -> Entry:
        entry = Entry(wanted.path, wanted.url, wanted.checksum)
        for attempt in range(self._config.retries + 1):
            try:
                digests = await self._attempt(wanted, part)
                return entry._replace(bytes=digests.size, md5=digests.hex())
            except _FailedError as error:
                failed = error
            if not failed.again or (failed.wait or 0.0) > self._config.longest_pause:
                break
            if attempt < self._config.retries:
                await asyncio.sleep(back_off(attempt) if failed.wait is None else failed.wait)
        return entry._replace(reason=failed.reason, detail=failed.detail)

    async def _attempt(self, wanted: Wanted, part: Path) -> Digests:
        try:
            checksum = parse_checksum(wanted.checksum)
        except NDSError as error:
            raise _FailedError("checksum form", str(error)) from None
        url: httpx.URL | Digests = _checked_url(wanted.url)
        for _ in range(MAX_REDIRECTS + 1):
            assert isinstance(url, httpx.URL)
            host = self._hosts[url.netloc.decode("ascii", "replace")]
            # Waiting for the host's turn is no part of the attempt's time.
            async with host.turn(), self._slots:
                with _transport_errors(self._config):
                    url = await asyncio.wait_for(
                        self._request(url, host, wanted, checksum, part), self._config.deadline
                    )
            if isinstance(url, Digests):
                return url
            if is_placeholder_page(str(url)):
                raise _FailedError("removed", f"redirected to {str(url)[:200]}")
        raise _FailedError("redirect", f"more than {MAX_REDIRECTS} redirects")

    async def _request(
        self, url: httpx.URL, host: Host, wanted: Wanted, checksum: Checksum | None, part: Path
    ) -> httpx.URL | Digests:
        """One request: where it redirects to, or what was received and put in place."""
        async with self._client.stream("GET", url) as response:
            if response.status_code in (429, 503):
                asked = retry_after(response.headers)
                # The whole host rests: what it said to one request holds for the others.
                host.pause(min(asked if asked is not None else back_off(0), self._config.longest_pause))
            if response.status_code in _REDIRECTS:
                return _checked_url(response.headers.get("location", ""), url)
            return await self._receive(response, wanted, checksum, part)

    async def _receive(
        self, response: httpx.Response, wanted: Wanted, checksum: Checksum | None, part: Path
    ) -> Digests:
        _check_status(response)
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length[:15]) > self._config.max_bytes:
            raise _FailedError(
                "too large", f"{length[:15]} bytes, at most {self._config.max_bytes} are taken"
            )
        digests = Digests(checksum)
        with open(part, "wb") as file:
            await self._copy(response, file, digests)
        self._check(wanted, checksum, digests)
        # Only a published size or checksum, or the length of the answer, tells that nothing is missing.
        whole = checksum is not None or bool(wanted.size) or length.isdigit()
        fault = image_fault(part, decode=False) if whole else await self._decode(part)
        if fault is not None:
            raise _FailedError("not an image", fault)
        place = self._folder / wanted.path
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, place)
        return digests

    async def _decode(self, part: Path) -> str | None:
        # One at a time: a decoded image may take some hundred megabytes.
        async with self._decoding:
            return await asyncio.to_thread(image_fault, part, decode=True)

    async def _copy(self, response: httpx.Response, file: IO[bytes], digests: Digests) -> None:
        # Raw: no bytes are unpacked, so that none can swell.
        async for block in response.aiter_raw():
            digests.update(block)
            if digests.size > self._config.max_bytes:
                raise _FailedError("too large", f"more than {self._config.max_bytes} bytes")
            file.write(block)

    def _check(self, wanted: Wanted, checksum: Checksum | None, digests: Digests) -> None:
        if digests.hex() in self._config.placeholders and not (checksum and checksum.matches(digests)):
            raise _FailedError("removed", f"the placeholder of MD5 {digests.hex()}")
        if wanted.size and digests.size != wanted.size:
            raise _FailedError(
                "size", f"expected {wanted.size} bytes, got {digests.size}", again=digests.size < wanted.size
            )
        if checksum is not None and not checksum.matches(digests):
            raise _FailedError(
                "checksum",
                f"expected {checksum.algorithm} {checksum.digest}, got {digests.hex(checksum.algorithm)}",
            )


@contextlib.contextmanager
def _transport_errors(config: FetchConfig) -> Iterator[None]:
    """What may go wrong on the way, by reason."""
    try:
        yield
    except asyncio.TimeoutError:
        raise _FailedError("timeout", f"not whole after {config.deadline:g} seconds", again=True) from None
    except httpx.TimeoutException:
        raise _FailedError("timeout", f"nothing came for {config.timeout:g} seconds", again=True) from None
    except httpx.RemoteProtocolError as error:
        cut = "without sending complete message body" in str(error)
        raise _FailedError("cut short" if cut else "connection", str(error), again=True) from None
    except httpx.TransportError as error:
        raise _FailedError("connection", str(error) or type(error).__name__, again=True) from None


def _checked_url(text: str, base: httpx.URL | None = None) -> httpx.URL:
    reason = "link" if base is None else "redirect"
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise _FailedError(reason, f"{text[:200]!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise _FailedError(reason, f"{text[:200]!r}: only http and https links are followed")
    if url.port is not None and url.port not in _PORTS:
        raise _FailedError(reason, f"{text[:200]!r}: ports are from {_PORTS[0]} to {_PORTS[-1]}")
    return url


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    detail = f"HTTP {status} {response.reason_phrase}"[:100]
    if status == 200:
        return
    if status in _GONE:
        raise _FailedError("not found", detail)
    if status == 429:
        raise _FailedError("too many requests", detail, again=True, wait=retry_after(response.headers))
    if status in TEMPORARY or status >= 500:
        raise _FailedError(
            "server error", detail, again=status in TEMPORARY, wait=retry_after(response.headers)
        )
    raise _FailedError("refused" if status in (401, 402, 403, 451) else "answer", detail)
