"""Images packed into one array: the file name ``FILE.npy#ROW`` means row ROW of FILE.npy.

For datasets whose images are no files (Downsampled ImageNet). The array is uint8 of shape
(images, height, width, 3), RGB, memory-mapped: one image costs one read, and all processes share the
pages. Whoever opens an image by its name asks :func:`split_name` first.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nds_plugin.files.artifacts import atomic_write
from nds_plugin.files.locations import is_url, local_path

_NAME = re.compile(r"(.+\.npy)#(\d+)", re.DOTALL)
_OPEN_FILES = 64


def split_name(name: str | os.PathLike[str]) -> tuple[str, int] | None:
    """File and row of the name of a packed image, None for any other name."""
    match = _NAME.fullmatch(os.fspath(name))
    return (match[1], int(match[2])) if match else None


def file_of(name: str) -> str:
    """The file that an image's name needs: itself, but for a packed image."""
    packed = split_name(name)
    return packed[0] if packed else name


def read_packed(file: str, row: int) -> npt.NDArray[np.uint8]:
    """A copy of one image, uint8 of shape (height, width, 3).

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: it is cut short, no such array, or has no such row; says which.
    """
    pixels = _open(file)
    if row >= len(pixels):
        raise ValueError(f"row {row} of {len(pixels)}")
    return np.array(pixels[row])


def packed_size(file: str) -> tuple[int, int]:
    """Width and height of the images of a file; raises as :func:`read_packed`."""
    _, height, width, _ = _open(file).shape
    return width, height


def write_packed(
    path: Path, shape: tuple[int, int, int, int], pieces: Iterable[npt.NDArray[np.uint8]]
) -> None:
    """Write an array piece by piece; whole or not at all.

    Args:
        shape: (images, height, width, 3).
        pieces: some rows each, in order.

    Raises:
        NDSError: it cannot be written.
    """
    with atomic_write(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        written = 0
        for piece in pieces:
            assert piece.dtype == np.uint8
            assert piece.shape[1:] == shape[1:], piece.shape
            file.write(np.ascontiguousarray(piece).data)
            written += len(piece)
        assert written == shape[0], (written, shape)


def _open(file: str) -> npt.NDArray[np.uint8]:
    if is_url(file):
        raise ValueError("an array of images is read from this machine's disks alone: copy it there")
    file = local_path(file)
    stat = os.stat(file)
    return _mapped(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _mapped(file: str, changed: int, size: int) -> npt.NDArray[np.uint8]:
    del changed, size  # a file that was written anew is another one
    pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[3:] != (3,):
        raise ValueError("not an array of RGB images, uint8 of shape (images, height, width, 3)")
    return pixels
