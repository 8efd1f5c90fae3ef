"""Zip files of datasets that Python's reader cannot unpack: said in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nds_plugin.errors import NDSError


@contextlib.contextmanager
def unpacking(where: str) -> Iterator[None]:
    """Unpack a member in this block.

    Raises:
        NDSError: it is encrypted, or compressed in a way that is not read (Deflate64, as Windows packs large files).
    """
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        raise NDSError(
            f"{where} cannot be unpacked here ({str(error).rstrip('.')}): unpack the zip file, or pack it anew without "
            "a password and with plain Deflate."
        ) from None
