"""Pictures as data URIs, compressed until all of them together are light enough to mail."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Sequence

from PIL import Image

from nds_plugin.images.reading import load_image

logger = logging.getLogger(__name__)

TOTAL_BYTES = 1_000_000  # of all pictures before base64, which adds a third: a page below 1.5 MB
_STEPS = ((1500, 84), (1300, 78), (1100, 72), (900, 64), (700, 55), (480, 45))  # width, JPEG quality


def data_uris(paths: Sequence[str | os.PathLike[str]], total: int = TOTAL_BYTES) -> list[str]:
    """A data URI of each picture; charts stay PNG, photographs become JPEG.

    Small pictures leave their part of ``total`` to the large ones.

    Raises:
        ImageError: a file is missing or no image.
    """
    pictures = [load_image(path) for path in paths]
    kinds = [_kind(picture) for picture in pictures]
    first = [_encoded(picture, kind, 0) for picture, kind in zip(pictures, kinds)]
    contents: dict[int, bytes] = {}
    left = total
    by_weight = sorted(range(len(pictures)), key=lambda i: len(first[i]))
    for done, i in enumerate(by_weight):
        share = left // (len(pictures) - done)
        contents[i] = _fitting(pictures[i], kinds[i], first[i], share)
        left = max(left - len(contents[i]), 0)
        if len(contents[i]) > share:
            logger.warning("report: %s does not shrink to its share of %d bytes.", paths[i], share)
    return [
        f"data:image/{kind};base64,{base64.b64encode(contents[i]).decode()}" for i, kind in enumerate(kinds)
    ]


def _kind(picture: Image.Image) -> str:
    """ "png" for a chart, which has large areas of one colour, else "jpeg"."""
    small = picture.resize((min(picture.width, 400), min(picture.height, 400)), Image.Resampling.NEAREST)
    counts = small.getcolors(small.width * small.height) or []
    most = sum(sorted((count for count, _ in counts), reverse=True)[:8])
    return "png" if most > 0.8 * small.width * small.height else "jpeg"


def _fitting(picture: Image.Image, kind: str, first: bytes, share: int) -> bytes:
    """The best encoding that is not larger than ``share`` bytes, else the smallest."""
    content = first
    for step in range(1, len(_STEPS)):
        if len(content) <= share:
            break
        content = _encoded(picture, kind, step)
    return content


def _encoded(picture: Image.Image, kind: str, step: int) -> bytes:
    width, quality = _STEPS[step]
    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if kind == "png":
        picture.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()
