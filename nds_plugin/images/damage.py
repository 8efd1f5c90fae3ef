"""Which of many images cannot be decoded, found before they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from nds_plugin.images.reading import ImageError, load_image


def unreadable_images(files: Sequence[str], what: str, threads: int) -> list[str]:
    """Why images cannot be read, one line each, in the order of ``files``; each is decoded whole.

    Args:
        files: names as :func:`load_image` takes them.
        what: the images, for the progress bar.
        threads: that decode at a time; Pillow lets others run while it decodes.
    """
    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(pool.map(_why, files), desc=what, total=len(files), unit="image", disable=None, delay=2)
        return [why for why in bar if why is not None]


def _why(file: str) -> str | None:
    try:
        load_image(file)
    except ImageError as error:
        return str(error).removesuffix(".")
    return None
