"""Reading photographs: one loader with one kind of error, and the crops that networks see.

An image is a file, a row of an array of images (:mod:`nds_plugin.images.packed`), or a rectangle of one of
these. Crops are uint8 arrays of shape (size, size, 3), RGB. All resizing is by Pillow's filters, which
antialias, bilinear unless a network asks for another; what a crop holds depends on nothing but the file and the arguments.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from nds_plugin.errors import NDSError
from nds_plugin.images.packed import packed_size, read_packed, split_name

MAX_PIXELS = 178_956_970  # Pillow's own default for an error; our choice to keep it
RESIZE_RATIO = 256 / 224  # the usual evaluation crop of ImageNet networks
MIN_CROP_SHARE = 0.5  # of the shorter side, in random_crop; our choice
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")
_EXIF_ORIENTATION = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# A rectangle of an image in the form of W3C Media Fragments: photo.jpg#xywh=160,120,320,240
_REGION = re.compile(r"(.+)#xywh=(\d+),(\d+),(\d+),(\d+)", re.DOTALL)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(NDSError):
    """An image file that cannot be used; the message names the file and the cause."""


def region_path(path: str | os.PathLike[str], x: int, y: int, width: int, height: int) -> str:
    """The name under which :func:`load_image` gives a rectangle of an image file, in upright pixels."""
    return f"{os.fspath(path)}#xywh={x},{y},{width},{height}"


def split_region(path: str | os.PathLike[str]) -> tuple[str, tuple[int, int, int, int] | None]:
    """The file of a name and its rectangle (x, y, width, height), or None for the whole image."""
    match = _REGION.fullmatch(os.fspath(path))
    if match is None:
        return os.fspath(path), None
    x, y, width, height = (int(number) for number in match.groups()[1:])
    return match[1], (x, y, width, height)


def load_image(path: str | os.PathLike[str], shorter_side: int | None = None) -> Image.Image:
    """Decode an image file to RGB, upright as its EXIF orientation says.

    Args:
        path: the file, or ``FILE.npy#ROW`` for a row of an array of images; or a rectangle of
            either (see :func:`region_path`).
        shorter_side: the size in pixels that the caller will scale the shorter side to. A JPEG
            is then decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least twice as
            many pixels, which is several times quicker. By default, and for a rectangle, the full
            size is decoded.

    Raises:
        ImageError: the file is missing, empty, cut short, not an image, or larger than
            ``MAX_PIXELS``; the rectangle lies outside of it.
    """
    path, region = split_region(path)
    packed = split_name(path)
    if packed is not None:
        image = _load_packed(path, *packed)
        return image if region is None else _cut(image, region, path)
    try:
        # Checked by hand, since an empty file is only "not an image" to Pillow.
        if os.stat(path).st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes).")
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            orientation = _orientation(image)
            if shorter_side is not None and region is None:
                image.draft(None, (2 * shorter_side, 2 * shorter_side))
            upright = _to_rgb(image)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image file.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: more than {MAX_PIXELS} pixels, taken for a decompression bomb.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or of a format that Pillow does not read.") from None
    except ImageError:
        raise
    except _BROKEN as error:
        cause = "cut short" if "truncated" in str(error).lower() else "broken"
        raise ImageError(f"{path}: the image is {cause} ({error}).") from None
    upright = turned(upright, orientation)
    return upright if region is None else _cut(upright, region, path)


def _cut(image: Image.Image, region: tuple[int, int, int, int], path: str) -> Image.Image:
    x, y, width, height = region
    box = (x, y, min(x + width, image.width), min(y + height, image.height))
    if box[2] <= x or box[3] <= y:
        raise ImageError(
            f"{path}: the rectangle {width} x {height} at ({x}, {y}) lies outside of the {image.width} x "
            f"{image.height} image: the annotations are of another image."
        )
    return image.crop(box)


def _load_packed(name: str | os.PathLike[str], file: str, row: int) -> Image.Image:
    try:
        return Image.fromarray(read_packed(file, row))
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file of images.") from None
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: the image cannot be read ({error}).") from None


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """A stored image as an EXIF orientation (1 to 8) says that it is to be shown."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says.

    Attributes:
        width, height: in pixels, as stored.
        orientation: EXIF orientation, 1 to 8; 1 where there is none.
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as the image is shown, that is, as :func:`load_image` gives it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Size and orientation of an image file (or packed image), from its header alone.

    Raises:
        ImageError: the file is missing, or its header cannot be read.
    """
    packed = split_name(path)
    try:
        if packed is not None:
            return ImageHeader(*packed_size(packed[0]))
        with Image.open(path) as image:
            # Only where the header already holds it: for PNG, asking would decode the image.
            told = _orientation(image) if image.format in ("JPEG", "MPO") else 1
            return ImageHeader(image.width, image.height, told if told in _UPRIGHT else 1)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image file.") from None
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: its header cannot be read ({error or type(error).__name__}).") from None


def _orientation(image: ImageFile.ImageFile) -> int:
    # A damaged EXIF block says nothing about the pixels: such a photo is taken as upright,
    # as Detectron2 does.
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per channel: convert() would clip, not scale
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


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


def read_center_crop(
    path: str | os.PathLike[str], size: int, interpolation: str = "bilinear"
) -> npt.NDArray[np.uint8]:
    """:func:`center_crop` of a file, decoded at a reduced scale where that loses nothing.

    Raises:
        ImageError: see :func:`load_image`.
    """
    return center_crop(load_image(path, resize_size(size)), size, interpolation)


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of the image files in a folder and all below it, sorted; links to folders are followed.

    Files are told by their endings (``EXTENSIONS``); hidden ones are passed over.

    Raises:
        NDSError: no such folder, or no image file in it.
    """
    if not os.path.isdir(folder):
        raise NDSError(f"{folder}: no such folder; expected a folder of images.")
    found = sorted(image_files(folder))
    if not found:
        raise NDSError(
            f"{folder}: no image in this folder; expected files ending in {', '.join(EXTENSIONS)}."
        )
    return found


def image_files(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Paths of the image files below a folder; links to folders are followed, each folder once."""
    seen: set[str] = set()  # a link may lead back to a folder above
    for directory, below, names in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if os.path.realpath(directory) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(directory))
        yield from (os.path.join(directory, name) for name in names if _is_image_name(name))


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
