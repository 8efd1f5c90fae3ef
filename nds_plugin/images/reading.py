"""Reading photographs: one reader with one kind of error.

This is the only module that opens an image file, so that all parts of the package see the same pixels,
of the same size, or the same error. An image is a file, of this machine or at a URL
(:mod:`nds_plugin.files.locations`), a row of an array of images (:mod:`nds_plugin.images.packed`), or a
rectangle of one of these.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from nds_plugin.errors import MissingPackageError, NDSError
from nds_plugin.files.locations import StrPath, is_url, local_path, read_bytes
from nds_plugin.images.packed import packed_size, read_packed, split_name

MAX_PIXELS = 178_956_970  # Pillow's own default for an error; our choice to keep it
# Pillow knows these and decodes none of them by itself; for EPS it would start another program.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# Of all others, the size is certain only once the image is decoded.
_HEADER_TELLS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
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

    code = "image"


class NotAnImageError(ImageError):
    """A file whose content is of no format that Pillow decodes."""

    code = "not-an-image"


def region_path(path: StrPath, x: int, y: int, width: int, height: int) -> str:
    """The name under which :func:`load_image` gives a rectangle of an image file, in upright pixels."""
    return f"{os.fspath(path)}#xywh={x},{y},{width},{height}"


def split_region(path: StrPath) -> tuple[str, tuple[int, int, int, int] | None]:
    """The file of a name and its rectangle (x, y, width, height), or None for the whole image.

    A file that is really called so is a whole image.
    """
    match = _REGION.fullmatch(os.fspath(path))
    if match is None or os.path.isfile(path):
        return os.fspath(path), None
    x, y, width, height = (int(number) for number in match.groups()[1:])
    return match[1], (x, y, width, height)


def load_image(path: StrPath, shorter_side: int | None = None, mode: str = "RGB") -> Image.Image:
    """Decode an image file, upright as its EXIF orientation says, to 8 bits a channel.

    The pixels are those of ``ImageOps.exif_transpose(Image.open(path)).convert(mode)``, but for
    channels of more than 8 bits, which Pillow clips: of 16 bits the upper 8 are kept; floating point
    numbers that do not exceed 1 are taken as shares of white, others are clipped to 0 to 255.

    Args:
        path: the file or its URL, or ``FILE.npy#ROW`` for a row of an array of images; or a rectangle of
            either (see :func:`region_path`).
        shorter_side: the size in pixels that the caller will scale the shorter side to. A JPEG
            is then decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least twice as
            many pixels, which is several times quicker. By default, and for a rectangle, the full
            size is decoded.
        mode: Pillow's name of what is wanted.

    Raises:
        ImageError: the file is missing, empty, cut short, damaged, not an image, or larger than
            ``MAX_PIXELS``; the rectangle lies outside of it.
    """
    path, region = split_region(path)
    packed = split_name(path)
    if packed is not None:
        image = _load_packed(path, *packed)
        image = image if mode == "RGB" else image.convert(mode)
    else:
        with _opened(path, path) as stored:
            if shorter_side is not None and region is None:
                stored.draft(None, (2 * shorter_side, 2 * shorter_side))
            # First of all, since asking a PNG for its EXIF block decodes it, too: an error there
            # would be taken for one of the block, and what was decoded so far for the whole image.
            stored.load()
            # A TIFF has been turned by now, and says so.
            image = turned(_eight_bits(stored).convert(mode), _orientation(stored))
    return image if region is None else image.crop(_cut(image.size, region, path))


def load_stored(source: StrPath | IO[bytes], name: str) -> Image.Image:
    """An image with its values as they are stored, for images of labels and masks.

    Args:
        source: a file, or one that is open.
        name: how an error calls it.

    Raises:
        ImageError: as :func:`load_image`.
    """
    with _opened(source, name) as image:
        image.load()
        return image


def holds_image(path: StrPath) -> bool:
    """Whether the content of a file is an image, be it a damaged one."""
    try:
        with _opened(path, os.fspath(path)):
            return True
    except NotAnImageError:
        return False
    except ImageError:
        return True


@contextlib.contextmanager
def _opened(source: StrPath | IO[bytes], name: str) -> Iterator[ImageFile.ImageFile]:
    """An image whose header was read. Whatever Pillow raises inside becomes an :class:`ImageError`."""
    if isinstance(source, (str, os.PathLike)) and "://" in os.fspath(source):
        source = _fetched(source)
    try:
        with Image.open(source) as image:
            if image.format in NOT_DECODED:
                raise NotAnImageError(
                    f"{name}: {image.format}, a format that Pillow knows but does not decode."
                )
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except (ImageError, MemoryError):  # of a size that passed, it is the machine that has too little memory
        raise
    # The readers of Pillow's formats raise nearly anything on bytes that are damaged.
    except Exception as error:
        raise _image_error(source, name, error) from None


def _fetched(url: StrPath) -> StrPath | IO[bytes]:
    """The content of the file at a URL, which fsspec reads; the path of one of this machine."""
    if not is_url(url):
        return local_path(url)
    try:
        content = read_bytes(url)
    except FileNotFoundError:
        raise ImageError(f"{os.fspath(url)}: no such image file.") from None
    except MissingPackageError:  # nothing is wrong with the image
        raise
    except NDSError as error:
        raise ImageError(str(error)) from None
    if not content:
        raise NotAnImageError(f"{os.fspath(url)}: the file is empty (0 bytes).")
    return io.BytesIO(content)


def _image_error(source: StrPath | IO[bytes], name: str, error: Exception) -> ImageError:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{name}: no such image file.")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{name}: more than {MAX_PIXELS} pixels, taken for a decompression bomb.")
    if isinstance(error, UnidentifiedImageError):
        if isinstance(source, (str, os.PathLike)) and os.path.getsize(source) == 0:
            return NotAnImageError(f"{name}: the file is empty (0 bytes).")
        return NotAnImageError(f"{name}: not an image, or of a format that Pillow does not read.")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(f"{name}: the file cannot be read ({error.strerror}).")
    cause = "cut short" if "truncated" in text.lower() else "broken"
    return ImageError(f"{name}: the image is {cause} ({text}).")


def _cut(size: tuple[int, int], region: tuple[int, int, int, int], path: str) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a rectangle, as far as it lies in an image."""
    x, y, width, height = region
    box = (x, y, min(x + width, size[0]), min(y + height, size[1]))
    if box[2] <= x or box[3] <= y:
        raise ImageError(
            f"{path}: the rectangle {width} x {height} at ({x}, {y}) lies outside of the {size[0]} x {size[1]} "
            "image: the annotations are of another image."
        )
    return box


def _load_packed(name: StrPath, file: str, row: int) -> Image.Image:
    with _packed_errors(name):
        return Image.fromarray(read_packed(file, row))


@contextlib.contextmanager
def _packed_errors(name: StrPath) -> Iterator[None]:
    try:
        yield
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


def read_header(path: StrPath) -> ImageHeader:
    """Size and orientation of an image file (or packed image), from its header alone where that tells.

    A rectangle has the size and orientation with which :func:`load_image` gives it.

    Raises:
        ImageError: the file is missing, or its header cannot be read; the rectangle lies outside of it.
    """
    path, region = split_region(path)
    if region is not None:
        left, top, right, bottom = _cut(read_header(path).shown, region, path)
        return ImageHeader(right - left, bottom - top)
    packed = split_name(path)
    if packed is not None:
        with _packed_errors(path):
            return ImageHeader(*packed_size(packed[0]))
    with _opened(path, os.fspath(path)) as image:
        if image.format not in _HEADER_TELLS or (image.format == "PNG" and _tells_late(image)):
            image.load()
        width, height = image.size
        told = _orientation(image)
        if image.format == "TIFF":  # Pillow swaps the size when it opens the file, or when it decodes it
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]  # type: ignore[attr-defined]
        return ImageHeader(width, height, told)


def _orientation(image: ImageFile.ImageFile) -> int:
    # A damaged EXIF block says nothing about the pixels: such a photo is taken as upright,
    # as Detectron2 does. The method of the base class, since that of PNG decodes the image.
    try:
        told = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
    except Exception:
        return 1
    return int(told) if told in _UPRIGHT else 1


def _tells_late(image: ImageFile.ImageFile) -> bool:
    """Whether what may hold an orientation follows the pixels of a PNG, where Pillow finds it after decoding."""
    file = image.fp
    assert file is not None
    place, found, after_pixels = file.tell(), False, False
    file.seek(len(b"\x89PNG\r\n\x1a\n"))
    while not found and len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IEND":
            break
        after_pixels |= kind == b"IDAT"
        skipped = length + 4  # the checksum
        if after_pixels and kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = file.read(min(length, 32))
            skipped -= len(keyword)
            found = keyword.startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"))
        found |= after_pixels and kind == b"eXIf"
        file.seek(skipped, os.SEEK_CUR)
    file.seek(place)
    return found


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image that ``convert`` turns into 8 bits a channel without clipping, and without a warning."""
    if image.mode.startswith("I"):
        return _grey(np.asarray(image).astype(np.int64) >> 8)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return _grey(np.round(values * 255) if values.max(initial=0) <= 1 else values)
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _grey(values: npt.NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
