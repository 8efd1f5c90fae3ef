"""Is it the image? Checksums in the forms that providers publish, placeholders of removed photos, formats."""

from __future__ import annotations

import base64
import binascii
import hashlib
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_image, read_header

# MD5 of the pictures that hosts serve, with status 200, for photos that their owners removed.
PLACEHOLDERS = {
    "880a7a58e05d3e83797f27573bb6d35c": "Flickr: photo no longer available (PNG, 2051 bytes)",
    "d835884373f4d6c8f24742ceabe74946": "Imgur: image removed",
}
# Where Flickr and Imgur redirect to instead; the picture behind it has changed over the years.
_PLACEHOLDER_PAGES = re.compile(r"(photo_unavailable(_[a-z])?\.(png|gif|jpg)|removed\.png)", re.IGNORECASE)
_HEX = {32: "md5", 64: "sha256"}
_BASE64 = {24: "md5", 44: "sha256"}


@dataclass(frozen=True)
class Checksum:
    """A published checksum: ``md5`` or ``sha256``, in hexadecimal."""

    algorithm: str
    digest: str

    def matches(self, digests: Digests) -> bool:
        """Whether the bytes have this checksum."""
        return digests.hex(self.algorithm) == self.digest


def parse_checksum(text: str) -> Checksum | None:
    """A checksum as providers write it; None for an empty one.

    MD5 or SHA-256, hexadecimal or base64 (as OpenImages' ``OriginalMD5``), with or without ``md5:``.

    Raises:
        NDSError: of another form.
    """
    prefix, _, rest = text.strip().rpartition(":")
    algorithm = prefix.lower().replace("-", "")
    if not rest:
        return None
    if algorithm in ("", _HEX.get(len(rest))) and re.fullmatch("[0-9a-fA-F]+", rest) and len(rest) in _HEX:
        return Checksum(_HEX[len(rest)], rest.lower())
    if algorithm in ("", _BASE64.get(len(rest))) and len(rest) in _BASE64:
        try:
            return Checksum(_BASE64[len(rest)], base64.b64decode(rest, validate=True).hex())
        except binascii.Error:
            pass
    raise NDSError(f"checksum {text[:80]!r}: expected MD5 or SHA-256 in hexadecimal or base64.")


class Digests:
    """Checksums of bytes that arrive in parts: always MD5, SHA-256 where it is wanted."""

    def __init__(self, wanted: Checksum | None) -> None:
        self._hashes: dict[str, Any] = {"md5": hashlib.md5(usedforsecurity=False)}
        if wanted is not None and wanted.algorithm != "md5":
            self._hashes[wanted.algorithm] = hashlib.new(wanted.algorithm)
        self.size = 0

    def update(self, data: bytes) -> None:
        """Take the next part."""
        self.size += len(data)
        for digest in self._hashes.values():
            digest.update(data)

    def hex(self, algorithm: str = "md5") -> str:
        """A checksum of all parts so far."""
        return str(self._hashes[algorithm].hexdigest())

    @classmethod
    def of_file(cls, path: Path, wanted: Checksum | None) -> Digests:
        """The checksums of a file."""
        digests = cls(wanted)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digests.update(block)
        return digests


def known_placeholders(more: Iterable[str] = ()) -> frozenset[str]:
    """MD5 (hexadecimal) of the known placeholders and of those that the user names.

    Raises:
        NDSError: one that is no MD5.
    """
    found = set(PLACEHOLDERS)
    for text in more:
        checksum = parse_checksum(text)
        if checksum is None or checksum.algorithm != "md5":
            raise NDSError(f"placeholder {text[:80]!r}: expected the MD5 of a picture.")
        found.add(checksum.digest)
    return frozenset(found)


def is_placeholder_page(url: str) -> bool:
    """Whether a redirect leads to a host's picture for removed photos."""
    return _PLACEHOLDER_PAGES.fullmatch(posixpath.basename(urlsplit(url).path)) is not None


def image_fault(path: Path, *, decode: bool) -> str | None:
    """Why a file is no image, or None.

    Args:
        decode: also decode it, which finds a file that was cut short; else only the header is read.
    """
    try:
        load_image(path) if decode else read_header(path)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ").rstrip(".")
    return None
