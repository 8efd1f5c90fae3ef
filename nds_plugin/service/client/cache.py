"""Experts on this machine: fetched once, resumed where they broke off, checked before they are used.

``experts/HASH/`` in the user's cache holds a set as the server published it. What a file must be
is told by the set's hash: it is the hash of the files' hashes. A file that is not what it must be is never
renamed into place.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import MANIFEST, check_manifest, check_set_file, read_manifest, set_files
from nds_plugin.files.artifacts import cannot_write, check_writable, file_hash
from nds_plugin.files.locking import held, user_cache
from nds_plugin.service.client.http import Service, printable
from nds_plugin.service.set_limits import check_limits, check_size

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SET_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a set as the server describes it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class RemoteSet:
    """An expert set as a server describes it, after it was found sound.

    Attributes:
        id: the server's id of the set.
        hash: of the experts, which scores carry.
        manifest: of the experts.
        files: the manifest's file first, then those of the experts, each with its network or on one backbone.
    """

    id: str
    hash: str
    manifest: dict[str, Any]
    files: list[RemoteFile]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)


def current_set(service: Service) -> RemoteSet:
    """The server's current expert set."""
    found = service.get("sources")
    return remote_set(service, str(found.get("expert_set") if isinstance(found, dict) else ""))


def remote_set(service: Service, set_id: str) -> RemoteSet:
    """A set of a server by its id.

    Raises:
        NDSError: no such set, or a description that cannot be right.
    """
    where = f"expert set {printable(set_id, 64)} of {service.address}"
    if not _SET_ID.fullmatch(set_id):
        raise NDSError(f"{where}: an id is 16 hexadecimal digits.")
    found = service.get(f"expert-sets/{set_id}")
    if not isinstance(found, dict) or not isinstance(found.get("manifest"), dict):
        raise NDSError(f"{where}: the answer holds no manifest: is this a server of nds_plugin?")
    manifest = found["manifest"]
    check_limits(manifest, f"{where} is refused")  # before anything is made of it
    try:
        check_manifest(manifest, Path(MANIFEST))
    except NDSError as error:
        raise NDSError(f"{where} is refused: {error}") from None
    return RemoteSet(set_id, manifest["hash"], manifest, list(_files(found, manifest, where)))


def _files(found: dict[str, Any], manifest: dict[str, Any], where: str) -> Iterator[RemoteFile]:
    listed = {str(e.get("name")): e for e in found.get("files") or [] if isinstance(e, dict)}
    wanted: list[tuple[str, Any]] = [(MANIFEST, None)]
    wanted += [(str(entry.get("file")), entry.get("sha256")) for entry in set_files(manifest)]
    if len({name for name, _ in wanted}) < len(wanted):
        raise NDSError(f"{where} is refused: two experts share a file.")
    for name, sha256 in wanted:
        if name != MANIFEST and not _NAME.fullmatch(name):
            raise NDSError(f"{where} is refused: {printable(name, 80)!r} is no name of an expert's file.")
        entry = listed.get(name, {})
        size, digest = entry.get("bytes"), entry.get("sha256")
        if type(size) is not int or size < 1 or not _SHA256.fullmatch(str(digest)):
            raise NDSError(f"{where} is refused: no sound size and hash of {name}.")
        check_size(name, size, f"{where} is refused")
        if sha256 is not None and sha256 != digest:
            raise NDSError(f"{where} is refused: {name} is listed with another hash than in the manifest.")
        yield RemoteFile(name, size, str(digest))


def fetch_experts(service: Service, remote: RemoteSet, *, progress: bool = True) -> Path:
    """The folder of a set's experts, every file of which was hashed just now.

    Files that are there are kept, half of one is completed, and a damaged one is fetched again.

    Raises:
        NDSError: a file that is not what the manifest says, no room on the disk, or no answer.
    """
    folder = user_cache() / "experts" / remote.hash
    check_writable(folder)
    bar = tqdm(
        total=remote.bytes, desc="experts", unit="B", unit_scale=True, disable=None if progress else True
    )
    with held(f"{folder}.lock", f"waiting for another client that fetches {folder}."), bar:
        for file in remote.files:
            path = folder / file.name
            if path.is_file():
                if file_hash(path) == file.sha256:
                    bar.update(file.bytes)
                    continue
                logger.warning("%s is not what it was when it was fetched: fetching it again.", path)
                path.unlink()
            _fetch(service, remote, file, path, bar)
    if read_manifest(folder / MANIFEST)["hash"] != remote.hash:
        raise NDSError(f"{folder / MANIFEST} is the manifest of another set than {remote.hash[:16]}.")
    return folder


def _fetch(service: Service, remote: RemoteSet, file: RemoteFile, path: Path, bar: tqdm[Any]) -> None:
    part = path.with_name(f".{file.name}.part")
    _check_room(path.parent, file.bytes)
    resumed = _size(part) > 0
    _receive(service, remote, file, part, bar)
    if file_hash(part) != file.sha256 and resumed:
        # The half that lay here may be the damaged one.
        part.unlink()
        bar.update(-file.bytes)
        _receive(service, remote, file, part, bar)
    found = file_hash(part)
    if found != file.sha256:
        part.unlink()
        raise NDSError(
            f"{service.address}: {file.name} is not the file that the manifest names: expected SHA-256 "
            f"{file.sha256}, got {found}; it was changed on the server or on the way and is not used."
        )
    if file.name != MANIFEST:
        try:
            check_set_file(part, remote.manifest, file.name)
        except NDSError:
            part.unlink()
            raise
    with _writing(path):
        part.replace(path)


def _receive(service: Service, remote: RemoteSet, file: RemoteFile, part: Path, bar: tqdm[Any]) -> None:
    """Complete ``part``; a broken connection is taken up where it broke."""
    address = f"expert-sets/{remote.id}/files/{file.name}"
    if _size(part) > file.bytes:
        part.unlink()
    bar.update(_size(part))
    attempt = 0
    while (before := _size(part)) < file.bytes:
        try:
            _receive_some(service, address, file, part, bar)
            broken: Exception = httpx.ReadError(f"the answer ended after {_size(part)} of {file.bytes} bytes")
        except httpx.TransportError as error:
            broken = error
        if _size(part) < file.bytes:
            attempt = 0 if _size(part) > before else attempt + 1
            service.wait_before(attempt, broken, address)


def _receive_some(service: Service, address: str, file: RemoteFile, part: Path, bar: tqdm[Any]) -> None:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": f'"{file.sha256}"'}
    with service.open(address, headers) as response, _writing(part):
        whole = response.status_code == 200  # the server does not know of ranges, or has another file now
        if whole or response.status_code == 416 or not _continues(response, start):
            bar.update(-start)
            part.unlink(missing_ok=True)
            start = 0
            if not whole:
                return
        with open(part, "ab") as out:
            for block in response.iter_raw():
                start += len(block)
                if start > file.bytes:
                    raise NDSError(
                        f"{service.url(address)}: more bytes than the {file.bytes} that were announced."
                    )
                out.write(block)
                bar.update(len(block))


def _continues(response: httpx.Response, start: int) -> bool:
    return response.headers.get("content-range", "").startswith(f"bytes {start}-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + (64 << 20):
        raise NDSError(f"{folder}: {needed >> 20} MB are needed and {free >> 20} MB are free on the disk.")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
