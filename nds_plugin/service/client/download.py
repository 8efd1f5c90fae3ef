"""The images of a manifest from their providers: parallel, resumable, polite; every failure has a reason."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from nds_plugin import __version__
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write, check_writable
from nds_plugin.files.locking import try_lock
from nds_plugin.service.client.checks import Digests, image_fault, parse_checksum
from nds_plugin.service.client.fetch import TRY_AGAIN, FetchConfig, Fetcher
from nds_plugin.service.client.hosts import Hosts, Politeness
from nds_plugin.service.client.ledger import Entry, Ledger
from nds_plugin.service.client.manifest import Wanted

logger = logging.getLogger(__name__)

FAILURES = "failures.csv"
_PARTS, _LOCK = ".nds_parts", ".nds_download.lock"
_SUSPICIOUS = 3  # images of the same bytes
USER_AGENT = f"nds-client/{__version__} (downloads the images that a dataset's provider links to)"


@dataclass(frozen=True)
class DownloadConfig:
    """How a manifest is downloaded.

    Attributes:
        connections: requests in flight over all hosts.
        politeness: limits per host.
        fetch: how one image is fetched.
        retry_failed: try every failed image again, not only those whose reason may have passed.
    """

    connections: int = 32
    politeness: Politeness = field(default_factory=Politeness)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if min(self.connections, self.politeness.connections) < 1 or not self.politeness.rate >= 0:
            raise NDSError(
                f"connections must be 1 or more and the rate 0 or more, got {self.connections}, "
                f"{self.politeness.connections} per host and a rate of {self.politeness.rate}."
            )


@dataclass
class Summary:
    """What a download came to.

    Attributes:
        wanted: images of the manifest.
        there: of them already there, whole, when the download began.
        fetched: newly fetched, of ``fetched_bytes``.
        failed: number of images by reason; those that are not tried again this time included.
        not_tried: of the failed ones, those that failed before and were left alone.
        suspicious: MD5 -> number of images that came with the same bytes and have no checksum.
        seconds: it took.
    """

    wanted: int
    there: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    not_tried: int = 0
    suspicious: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def download(
    images: Sequence[Wanted],
    folder: str | os.PathLike[str],
    config: DownloadConfig | None = None,
    *,
    progress: bool = True,
) -> Summary:
    """Fetch images into ``folder/SOURCE/FILE_NAME``; what is there already is kept.

    ``folder/failures.csv`` lists what could not be fetched and why.

    Args:
        images: of :func:`manifest.read_manifest`.
        folder: made if need be; several manifests may share it.
        config: how; by default ``DownloadConfig()``.
        progress: show a progress bar if on a terminal.

    Raises:
        NDSError: another download is running in the folder, or the disk is full.
    """
    start, folder = time.monotonic(), Path(folder)
    check_writable(folder)
    with _locked(folder), contextlib.closing(Ledger(folder)) as ledger:
        run = _Run(images, folder, config or DownloadConfig(), ledger)
        pending = list(run.pending())
        with tqdm(
            total=len(images), initial=len(images) - len(pending), desc="images", unit="image",
            disable=None if progress else True,
        ) as bar:  # fmt: skip
            asyncio.run(run.fetch(pending, bar))
        run.finish()
    run.summary.seconds = time.monotonic() - start
    return run.summary


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone, with an empty place for files that are not whole yet."""
    lock = try_lock(folder / _LOCK)
    if lock is None:
        raise NDSError(f"another download is running in {folder}: wait for it, or give another folder.")
    try:
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        (folder / _PARTS).mkdir()
        yield
    finally:
        shutil.rmtree(folder / _PARTS, ignore_errors=True)
        lock.release()


class _Run:
    """One download of a locked folder."""

    def __init__(
        self, images: Sequence[Wanted], folder: Path, config: DownloadConfig, ledger: Ledger
    ) -> None:
        self._images, self._folder, self._config, self._ledger = images, folder, config, ledger
        self._failures: dict[str, Entry] = {}
        self.summary = Summary(len(images))

    def pending(self) -> Iterator[Wanted]:
        """The images to fetch; the others are counted."""
        known = self._ledger.entries()
        for image in tqdm(self._images, desc="looking at what is there", unit="image", disable=None, delay=2):
            entry = known.get(image.path)
            if entry is not None and (entry.url, entry.checksum) != (image.url, image.checksum):
                entry = None  # another image had this place, or its link changed
            if _is_there(image, self._folder / image.path, entry, self._config, self._ledger):
                self.summary.there += 1
            elif not image.url:
                self._fail(Entry(image.path, "", "", "no link", "the provider publishes no link"))
            elif entry and entry.reason not in ("", *TRY_AGAIN) and not self._config.retry_failed:
                self._fail(entry)
                self.summary.not_tried += 1
            else:
                yield image

    async def fetch(self, pending: Sequence[Wanted], bar: tqdm[Any]) -> None:
        """Fetch images, host by host in parallel, so that one slow host does not hold the others up."""
        by_host: dict[str, list[Wanted]] = {}
        for image in reversed(pending):
            by_host.setdefault(image.url.partition("//")[2].partition("/")[0], []).append(image)
        async with _fetcher(self._folder, self._config) as fetcher:

            async def work(images: list[Wanted]) -> None:
                while images:
                    self._record(await fetcher.fetch(images.pop()))
                    bar.update()

            tasks = [
                asyncio.create_task(work(images))
                for images in by_host.values()
                for _ in range(min(len(images), self._config.politeness.connections))
            ]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _record(self, entry: Entry) -> None:
        self._ledger.put(entry)
        if entry.reason:
            self._fail(entry)
        else:
            self.summary.fetched += 1
            self.summary.fetched_bytes += entry.bytes

    def _fail(self, entry: Entry) -> None:
        self.summary.failed[entry.reason] += 1
        self._failures[entry.path] = entry

    def finish(self) -> None:
        """Write the list of failures; look for placeholders that nobody knows yet."""
        self._ledger.commit()
        paths = (image.path for image in self._images)
        self.summary.suspicious = dict(self._ledger.same_bytes(paths, _SUSPICIOUS))
        with atomic_write(self._folder / FAILURES, "w") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "image_id", "url", "reason", "detail"])
            for image in self._images:
                if image.path in self._failures:
                    entry = self._failures[image.path]
                    writer.writerow([image.source, image.image_id, image.url, entry.reason, entry.detail])


def _is_there(
    image: Wanted, place: Path, entry: Entry | None, config: DownloadConfig, ledger: Ledger
) -> bool:
    """Whether an image's file is there and whole. A file without an entry is looked at, then recorded."""
    try:
        size = place.stat().st_size
    except OSError:
        return False
    if entry is not None and not entry.reason and entry.bytes == size:
        if entry.md5 not in config.fetch.placeholders:
            return True
        place.unlink()  # the user has told that it is a placeholder
        return False
    found = _look_at(image, place, size, config.fetch.placeholders)
    if found is None:
        logger.warning("%s is not whole or not the image: removed, to be fetched again.", place)
        place.unlink()
        return False
    ledger.put(found)
    return True


def _look_at(image: Wanted, place: Path, size: int, placeholders: frozenset[str]) -> Entry | None:
    """The entry of a file without one, None if it is not the whole image."""
    try:
        checksum = parse_checksum(image.checksum)
    except NDSError:
        return None
    digests = Digests.of_file(place, checksum)
    if image.size not in (0, size) or digests.hex() in placeholders:
        return None
    if checksum is not None and not checksum.matches(digests):
        return None
    # Ours are put in place whole; yet one that somebody else left there may be cut short.
    if image_fault(place, decode=checksum is None) is not None:
        return None
    return Entry(image.path, image.url, image.checksum, bytes=size, md5=digests.hex())


@contextlib.asynccontextmanager
async def _fetcher(folder: Path, config: DownloadConfig) -> AsyncIterator[Fetcher]:
    slots = asyncio.Semaphore(config.connections)
    limits = httpx.Limits(max_connections=config.connections, max_keepalive_connections=config.connections)
    headers = {"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"}
    timeout = httpx.Timeout(config.fetch.timeout, pool=None)  # the slots see to the pool
    async with httpx.AsyncClient(
        timeout=timeout, limits=limits, headers=headers, follow_redirects=False
    ) as client:
        yield Fetcher(client, Hosts(config.politeness), slots, folder, folder / _PARTS, config.fetch)
