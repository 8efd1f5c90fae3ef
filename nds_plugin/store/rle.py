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
