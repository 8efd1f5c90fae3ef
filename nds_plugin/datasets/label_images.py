"""Images whose pixels are numbers of objects (Cityscapes' ``instanceIds``, VOC's ``SegmentationObject``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_stored


@dataclass(frozen=True)
class Region:
    """The pixels of one value.

    Attributes:
        rle: compressed run lengths, as pycocotools writes them.
        area: in pixels.
        bbox: x, y, width, height of the tight box, in pixels.
    """

    rle: bytes
    area: int
    bbox: tuple[float, float, float, float]


def regions(labels: npt.NDArray[np.integer[Any]], values: npt.NDArray[np.integer[Any]]) -> dict[int, Region]:
    """The region of each of some values that occurs, exact to the pixel.

    Args:
        labels: shape (height, width).
        values: those wanted, in any order.

    Returns:
        In ascending order of the values.
    """
    from pycocotools import mask

    height, width = labels.shape
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, flat.size])
    runs = flat[starts]
    found = {}
    for value in np.intersect1d(runs, values).tolist():
        mine = runs == value
        counts = _run_lengths(starts[mine], lengths[mine], flat.size)
        rle = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        x, y, w, h = mask.toBbox(rle).tolist()
        found[value] = Region(rle["counts"], int(lengths[mine].sum()), (x, y, w, h))
    return found


def read_label_image(path: str | os.PathLike[str], where: str) -> npt.NDArray[Any]:
    """The values of a one-channel image (grey of 8 or 16 bits, or palette indices), shape (height, width).

    Raises:
        NDSError: the file is missing, cut short, or not of one channel.
    """
    try:
        image = load_stored(path, os.fspath(path))
    except ImageError as error:
        raise NDSError(f"{where}: {error} Get it again.") from None
    values = np.asarray(image)
    if values.ndim != 2:
        raise NDSError(f"{where}: {path} must have one channel of numbers of objects, it is {image.mode}.")
    return values


def check_size(
    size: tuple[int, int], expected: tuple[int, int], path: str | os.PathLike[str], where: str
) -> None:
    """See that a label image is of its photograph's size.

    Args:
        size, expected: height and width.

    Raises:
        NDSError: it is not.
    """
    if tuple(size) != tuple(expected):
        raise NDSError(
            f"{where}: {path} is {size[1]} x {size[0]} pixels, expected {expected[1]} x {expected[0]} as its image."
        )


def _run_lengths(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: int) -> list[int]:
    """Uncompressed run lengths, off and on by turns, of the runs that are on."""
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    counts: list[int] = np.diff(np.r_[0, edges, size]).tolist()
    return counts
