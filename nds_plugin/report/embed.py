"""Pictures as data URIs, compressed until all of them together are light enough to mail."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Sequence

from PIL import Image

from nds_plugin.images import load_image

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
    encoded: dict[int, tuple[str, bytes]] = {}
    left = total
    by_weight = sorted(range(len(pictures)), key=lambda i: len(_smallest(pictures[i], 0)[1]))
    for done, i in enumerate(by_weight):
        share = left // (len(pictures) - done)
        encoded[i] = _fitting(pictures[i], share)
        left = max(left - len(encoded[i][1]), 0)
        if len(encoded[i][1]) > share:
            logger.warning("report: %s does not shrink to its share of %d bytes.", paths[i], share)
    return [
        f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        for kind, content in (encoded[i] for i in range(len(pictures)))
    ]


def _fitting(picture: Image.Image, share: int) -> tuple[str, bytes]:
    """The best encoding that is not larger than ``share`` bytes, else the smallest."""
    for step in range(len(_STEPS)):
        kind, content = _smallest(picture, step)
        if len(content) <= share:
            break
    return kind, content


def _smallest(picture: Image.Image, step: int) -> tuple[str, bytes]:
    """As PNG with a palette, or as JPEG, whichever is smaller."""
    width, quality = _STEPS[step]
    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=quality, optimize=True, progressive=True)
    picture.quantize(128, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    both = [("jpeg", jpeg.getvalue()), ("png", png.getvalue())]
    return min(both, key=lambda pair: len(pair[1]))
