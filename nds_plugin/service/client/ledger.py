"""What became of each image of a download, in an SQLite file of the output folder.

Rows are committed in groups. A kill loses the last group of rows and no file: an image is in its place
only when it is whole and checked, so that :mod:`download` takes up what is there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import cannot_write

FILE = ".nds_download.sqlite"
_SCHEMA = """
create table if not exists images (
    path text primary key, url text not null, checksum text not null, reason text not null,
    detail text not null, bytes integer not null, md5 text not null) without rowid
"""
_COMMIT_ROWS, _COMMIT_SECONDS = 256, 1.0


class Entry(NamedTuple):
    """What became of an image.

    Attributes:
        path: its place, as in the manifest's plan.
        url, checksum: what was fetched, and what it had to be.
        reason: empty for an image that is there, else one word or two of why it is not.
        detail: for people.
        bytes, md5: of the file.
    """

    path: str
    url: str
    checksum: str
    reason: str = ""
    detail: str = ""
    bytes: int = 0
    md5: str = ""


class Ledger:
    """The entries of an output folder. The folder's lock is the caller's affair."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._pending: list[Entry] = []
        self._committed = time.monotonic()
        try:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.execute("pragma journal_mode=wal")
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise NDSError(
                f"{self._path}: the record of the download cannot be read ({error}): move it away; the images that "
                "are there are checked and kept."
            ) from None

    def entries(self) -> dict[str, Entry]:
        """All entries by path."""
        self.commit()
        return {row[0]: Entry(*row) for row in self._database.execute("select * from images")}

    def put(self, entry: Entry) -> None:
        """Record an image; committed soon."""
        self._pending.append(entry)
        if len(self._pending) >= _COMMIT_ROWS or time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Commit what was recorded.

        Raises:
            NDSError: the disk is full or the file cannot be written.
        """
        try:
            self._database.execute("begin")
            self._database.executemany("insert or replace into images values (?,?,?,?,?,?,?)", self._pending)
            self._database.execute("commit")
        except sqlite3.OperationalError as error:
            raise cannot_write(self._path, OSError(None, str(error))) from None
        self._pending.clear()
        self._committed = time.monotonic()

    def same_bytes(self, paths: Iterable[str], least: int) -> Iterator[tuple[str, int]]:
        """MD5 and number of the images among ``paths`` that ``least`` or more of them share."""
        counts: dict[str, int] = {}
        wanted = set(paths)
        for path, md5 in self._database.execute(
            "select path, md5 from images where reason = '' and checksum = ''"
        ):
            if path in wanted:
                counts[md5] = counts.get(md5, 0) + 1
        yield from sorted((item for item in counts.items() if item[1] >= least), key=lambda item: -item[1])

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            self._database.close()
