"""Masks as compressed run lengths, and masks of one size made into those of another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def encode(mask: Mask) -> bytes:
    """Compressed run lengths of a mask of shape (height, width), as pycocotools writes them."""
    from pycocotools import mask as mask_util

    counts: bytes = mask_util.encode(np.asfortranarray(mask).view(np.uint8))["counts"]
    return counts


def decode(counts: bytes, size: tuple[int, int]) -> Mask:
    """The mask of some run lengths.

    Args:
        size: height and width.
    """
    from pycocotools import mask as mask_util

    return np.asarray(mask_util.decode({"size": list(size), "counts": counts}), dtype=bool)


def nearest(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another size: each pixel is the one whose middle is nearest to its own.

    Args:
        size: height and width.

    Returns:
        In Fortran order, which :func:`encode` wants.
    """
    found = np.zeros(size, dtype=bool, order="F")
    inside = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if len(inside[0]) == 0:
        return found
    # Only where the object is: mostly a small part of the image.
    places, sources = [], []
    for old, new, used in zip(mask.shape, size, inside):
        source = ((2 * np.arange(new) + 1) * old) // (2 * new)
        first, last = np.searchsorted(source, [used[0], used[-1] + 1])
        places.append(slice(first, last))
        sources.append(source[first:last])
    found[places[0], places[1]] = mask[sources[0]][:, sources[1]]
    return found


def resized(counts: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Run lengths at another size, by :func:`nearest`.

    Args:
        old, new: height and width.
    """
    return encode(nearest(decode(counts, old), new))


def runs(counts: bytes) -> npt.NDArray[np.int64]:
    """The lengths of the runs, off and on by turns, of compressed run lengths.

    pycocotools reads whatever it is given, beyond the end of a mask too; this tells a whole string
    from a broken one. Format: five bits a character, lowest first, bit 5 where a number goes on, and
    from the fourth number on the difference to the last but one (pycocotools' maskApi.c).

    Raises:
        ValueError: these are no compressed run lengths.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((digits & 32) == 0)
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 63 or ends[-1] != len(digits) - 1:
        raise ValueError("no compressed run lengths")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 11:
        raise ValueError("a run length of more than 60 bits")
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    negative = (digits[ends] & 16) != 0
    numbers[negative] -= np.int64(1) << (5 * (place[ends[negative]] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if (numbers < 0).any():
        raise ValueError("a negative run length")
    return numbers
