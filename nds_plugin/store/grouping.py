"""Whose an annotation is: ids to positions, and the order that groups annotations by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError

_STEP = 1 << 20  # ids looked up at a time


def ascending(ids: Any, where: str) -> npt.NDArray[np.int64]:
    """Rows in ascending order of the ids (text by code point).

    Raises:
        NDSError: an id occurs twice.
    """
    if isinstance(ids, pa.Array):
        order = np.asarray(pc.sort_indices(ids.cast(pa.binary()))).astype(np.int64)
        ordered = ids.take(pa.array(order))
        twice = np.asarray(pc.equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False), dtype=bool)
        first = ordered[int(np.flatnonzero(twice)[0])].as_py() if twice.any() else None
    else:
        order = np.argsort(ids, kind="stable").astype(np.int64)
        twice = np.diff(np.asarray(ids)[order]) == 0
        first = int(ids[order[np.flatnonzero(twice)[0]]]) if twice.any() else None
    if twice.any():
        raise NDSError(
            f"{where}: {int(twice.sum())} ids of 'images' occur more than once, first {first!r}: make them unique."
        )
    return order


def owners(ids: Any, order: npt.NDArray[np.int64], references: Any, where: str) -> npt.NDArray[np.int64]:
    """Position in the ordered images of the image that each annotation names.

    Raises:
        NDSError: some name an image that is not there.
    """
    is_text = isinstance(references, pa.Array)
    if len(references) and is_text != isinstance(ids, pa.Array):
        kinds = ("text", "whole numbers") if is_text else ("whole numbers", "text")
        raise NDSError(
            f"{where}: annotations name their images by {kinds[0]}, but the ids of 'images' are {kinds[1]}."
        )
    found = np.full(len(references), -1, dtype=np.int64)
    known: Any = ids.take(pa.array(order)) if is_text else np.asarray(ids)[order]
    for start in range(0, len(references), _STEP):
        part = references[start : start + _STEP]
        if is_text:
            places = pc.fill_null(pc.index_in(part, value_set=known), -1)
            found[start : start + len(part)] = places.to_numpy(zero_copy_only=False)
        else:
            places = np.minimum(np.searchsorted(known, part), len(known) - 1)
            found[start : start + len(part)] = np.where(known[places] == part, places, -1)
    if (found < 0).any():
        bad = int(np.flatnonzero(found < 0)[0])
        value = references[bad].as_py() if is_text else int(references[bad])
        raise NDSError(
            f"{where}: {int((found < 0).sum())} of {len(found)} annotations are of no image that the file lists, "
            f"first annotations[{bad}] with image_id {value!r}: remove them or add the image."
        )
    return found


def classes_of(
    category_ids: npt.NDArray[np.int64], categories: Sequence[tuple[int, str]], where: str
) -> npt.NDArray[np.int32]:
    """Position in ``categories`` (ascending by id) of each annotation's category.

    Raises:
        NDSError: some name a category that is not there.
    """
    known = np.array([category for category, _ in categories], dtype=np.int64)
    if len(category_ids) == 0:
        return np.zeros(0, dtype=np.int32)
    places = np.minimum(np.searchsorted(known, category_ids), max(0, len(known) - 1))
    bad = np.flatnonzero(known[places] != category_ids) if len(known) else np.arange(len(category_ids))
    if len(bad):
        raise NDSError(
            f"{where}: {len(bad)} of {len(category_ids)} annotations are of no category that the file lists, "
            f"first annotations[{int(bad[0])}] with category_id {int(category_ids[bad[0]])}: remove them or add "
            "the category."
        )
    return places.astype(np.int32)


def by_image(
    owner: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_], num_images: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the kept annotations grouped by image, in their order; and where each image's begin.

    Returns:
        rows of shape (kept,), starts of shape (num_images + 1,).
    """
    rows = np.flatnonzero(kept)
    if not bool((np.diff(owner[rows]) >= 0).all()):
        rows = rows[np.argsort(owner[rows], kind="stable")]
    starts = np.zeros(num_images + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner[rows], minlength=num_images), out=starts[1:])
    return rows, starts


def batch_edges(
    starts: npt.NDArray[np.int64],
    values_before: Sequence[npt.NDArray[np.int64]],
    most_images: int,
    most_values: int,
) -> list[int]:
    """Where record batches begin, and the end of the last: limited in images and in values of any column.

    Args:
        starts: where each image's annotations begin; shape (images + 1,).
        values_before: per column, how many values lie before each annotation; shape (annotations + 1,).
        most_images, most_values: of a batch; a single image may have more values.
    """
    images = len(starts) - 1
    columns = [before[starts] for before in values_before]  # before each image
    edges = [0]
    while edges[-1] < images:
        first = edges[-1]
        last = min(first + most_images, images)
        for before in columns:
            fits = int(np.searchsorted(before, before[first] + most_values, side="right")) - 1
            last = min(last, max(fits, first + 1))
        edges.append(last)
    return edges
