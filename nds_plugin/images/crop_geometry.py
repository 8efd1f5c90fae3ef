"""The crops of photographs that networks see.

They are uint8 arrays of shape (size, size, 3), RGB. All resizing is by Pillow's filters, which antialias,
bilinear unless a network asks for another; what a crop holds depends on nothing but the image and the arguments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from nds_plugin.files.locations import StrPath
from nds_plugin.images.reading import load_image

RESIZE_RATIO = 256 / 224  # the usual evaluation crop of ImageNet networks
MIN_CROP_SHARE = 0.5  # of the shorter side, in random_crop; our choice


def resize_size(size: int) -> int:
    """Length that the shorter side is scaled to before a center crop of ``size`` pixels."""
    return round(size * RESIZE_RATIO)


def center_crop(image: Image.Image, size: int, interpolation: str = "bilinear") -> npt.NDArray[np.uint8]:
    """The central square after scaling the shorter side to ``resize_size(size)``.

    Args:
        image: RGB, of any size and shape.
        size: side of the crop in pixels.
        interpolation: of the resizing, one of ``input_form.INTERPOLATIONS``.

    Returns:
        Array of shape (size, size, 3).
    """
    # Cut first, then scale: the same square, without resizing what is thrown away.
    side = min(image.size) * size / resize_size(size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _scaled_box(image, left, top, side, size, interpolation)


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random square, mirrored half of the time.

    The side is uniform between ``MIN_CROP_SHARE`` and 1 of the shorter side, the place uniform
    over the image (our choice; the shape is kept, as stretching would tell nothing of "up").

    Args:
        image: RGB.
        size: side of the crop in pixels.
        rng: exactly four numbers are drawn from it.

    Returns:
        Array of shape (size, size, 3).
    """
    share, x, y, mirror = rng.random(4)
    side = min(image.size) * (MIN_CROP_SHARE + (1 - MIN_CROP_SHARE) * share)
    crop = _scaled_box(image, x * (image.width - side), y * (image.height - side), side, size)
    return np.ascontiguousarray(crop[:, ::-1]) if mirror < 0.5 else crop


def _scaled_box(
    image: Image.Image, left: float, top: float, side: float, size: int, interpolation: str = "bilinear"
) -> npt.NDArray[np.uint8]:
    left, top = max(left, 0.0), max(top, 0.0)
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return np.array(image.resize((size, size), Image.Resampling[interpolation.upper()], box=box))


def read_center_crop(path: StrPath, size: int, interpolation: str = "bilinear") -> npt.NDArray[np.uint8]:
    """:func:`center_crop` of a file, decoded at a reduced scale where that loses nothing.

    Raises:
        ImageError: see :func:`load_image`.
    """
    return center_crop(load_image(path, resize_size(size)), size, interpolation)
