"""Masks of COCO json: polygons and run lengths, checked."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from nds_plugin.store import Ragged
from nds_plugin.store.rle import runs
from nds_plugin.store.schema import MAX_SIDE, TEXT_RLE

_NUMBERS = {int, float}


def read_mask(segmentation: Any) -> Any:
    """What a ``segmentation`` holds.

    Returns:
        polygons as a list; run lengths as ((height, width), bytes, flag); () for none; None where it
        has polygons and none has three corners.

    Raises:
        ValueError: neither polygons nor run lengths.
    """
    try:
        if isinstance(segmentation, dict):
            return _run_lengths(segmentation)
        if not segmentation:
            return ()
        if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
            raise ValueError
        if any(isinstance(part[0], list) for part in segmentation if part):  # points, not numbers
            raise ValueError
        return valid_polygons(segmentation) or None
    except (TypeError, KeyError, AttributeError, OverflowError):
        raise ValueError from None


def valid_polygons(polygons: list[list[float]]) -> list[list[float]]:
    """Those that have three corners or more, as Detectron2 keeps them."""
    return [part for part in polygons if len(part) % 2 == 0 and len(part) >= 6]


def polygon_columns(polygons: list[Any]) -> Ragged | None:
    """Polygons of some objects as columns; None where they are not all numbers within ``MAX_SIDE``.

    pycocotools draws a polygon pixel by pixel, also where it lies outside of the image.
    """
    flat = itertools.chain.from_iterable
    if not set(map(type, flat(flat(polygons)))) <= _NUMBERS:
        return None
    try:
        found = Ragged.of_polygons(polygons)
    except OverflowError:
        return None
    assert isinstance(found.values, Ragged)
    return found if (np.abs(np.asarray(found.values.values)) <= MAX_SIDE).all() else None


def all_numbers(values: Any, most: float = math.inf) -> bool:
    """Whether this is a list of finite numbers that a float can hold, of ``most`` at most."""
    if not isinstance(values, list) or not set(map(type, values)) <= _NUMBERS:
        return False
    try:
        return all(math.isfinite(value) and abs(value) <= most for value in values)
    except OverflowError:
        return False


def _run_lengths(segmentation: dict[str, Any]) -> tuple[tuple[int, int], bytes, int]:
    height, width = segmentation["size"]
    if type(height) is not int or type(width) is not int:
        raise ValueError
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError
    given = segmentation["counts"]
    if isinstance(given, list):
        if not set(map(type, given)) <= {int} or sum(given) != height * width or min(given) < 0:
            raise ValueError
        from pycocotools import mask

        return (height, width), mask.frPyObjects(segmentation, height, width)["counts"], 0
    counts = given.encode("ascii")
    if runs(counts).sum() != height * width:
        raise ValueError
    return (height, width), counts, TEXT_RLE
