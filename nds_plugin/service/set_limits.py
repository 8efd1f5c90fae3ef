"""What a set may ask of a client: checked where it is published, and where a client fetches it from anybody's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import MANIFEST
from nds_plugin.experts.settings import HeadConfig
from nds_plugin.settings import named

MAX_EXPERTS, MAX_CLASSES = 4096, 100_000
# Bytes of a request: a score of each expert, as JSON or as a pickle of numpy's numbers.
MAX_BODY = 128 * MAX_EXPERTS
MAX_MANIFEST, MAX_EXPERT = 32 << 20, 256 << 20  # bytes of a file
CROP_SIZES = range(int(named(HeadConfig, "crop_size").least or 1), 1025)


def check_limits(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a manifest of more than clients take; it need not have been checked yet.

    Args:
        manifest: of the experts.
        where: how an error begins.

    Raises:
        NDSError: the number of experts or classes, or the crop size, is out of bounds.
    """
    experts, classes, crop = (manifest.get(name) for name in ("experts", "classes", "crop_size"))
    if not isinstance(experts, list) or not 1 <= len(experts) <= MAX_EXPERTS:
        raise NDSError(f"{where}: expected 1 to {MAX_EXPERTS} experts.")
    if not isinstance(classes, list) or not 2 <= len(classes) <= MAX_CLASSES:
        raise NDSError(f"{where}: expected 2 to {MAX_CLASSES} classes.")
    if type(crop) is not int or crop not in CROP_SIZES:
        raise NDSError(
            f"{where}: expected crops of {CROP_SIZES[0]} to {CROP_SIZES[-1]} pixels, got {crop!r:.40}."
        )


def check_size(name: str, size: int, where: str) -> None:
    """Refuse a file that is larger than clients fetch.

    Args:
        name: of the file in the set.
        size: in bytes.
        where: how an error begins.

    Raises:
        NDSError: it is.
    """
    most = MAX_MANIFEST if name == MANIFEST else MAX_EXPERT
    if size > most:
        raise NDSError(
            f"{where}: {name} is of {size / 1e6:.1f} MB, clients take files of at most {most / 1e6:.1f} MB."
        )
