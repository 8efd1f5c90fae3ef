"""Mosaics of random images of a cluster or of a draw."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from nds_plugin.images.reading import ImageError, load_image

if TYPE_CHECKING:
    from nds_plugin.selection.selection import Selection
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)

CELL = 112  # pixels of one image in a sheet
GAP = 4


def cluster_images(partition: Partition, cluster: int, images: int, seed: int) -> list[int]:
    """Positions in the index of random images of a cluster, without replacement.

    They depend on the seed and the cluster alone, not on which other clusters are shown.
    """
    members = np.flatnonzero(partition.cluster == cluster)
    rng = np.random.Generator(np.random.PCG64([seed, cluster]))
    return [int(i) for i in rng.permutation(members)[:images]]


def drawn_images(index: SourceIndex, selection: Selection, images: int, seed: int) -> list[int]:
    """Positions in the index of random images of a draw, each once; of a stream, by their probabilities."""
    rows = selection.rows_of(index.column("source"), index.column("image_id"))
    places = np.flatnonzero(rows >= 0)
    p = selection.column("p").to_numpy()[rows[places]] if selection.mode == "stream" else np.ones(len(places))
    places, p = places[p > 0], p[p > 0]
    rng = np.random.Generator(np.random.PCG64(seed))
    return [int(i) for i in rng.choice(places, min(images, len(places)), replace=False, p=p / p.sum())]


def mosaic_of(index: SourceIndex, positions: Sequence[int], side: int, images: int) -> npt.NDArray[np.uint8]:
    """Square cells of the images, uint8 (rows * (CELL + GAP), side * (CELL + GAP), 3)."""
    rows = -(-images // side)
    sheet = np.full((rows * (CELL + GAP), side * (CELL + GAP), 3), 255, dtype=np.uint8)
    for place in range(images):
        y, x = (place // side) * (CELL + GAP), (place % side) * (CELL + GAP)
        cell = _cell(index[positions[place]].file_name) if place < len(positions) else _empty(crossed=False)
        sheet[y : y + CELL, x : x + CELL] = cell
    return sheet


def _cell(path: str) -> npt.NDArray[np.uint8]:
    try:
        image = load_image(path, CELL)
    except ImageError as error:
        logger.warning("cluster sheet: %s", error)
        return _empty(crossed=True)
    return np.asarray(ImageOps.fit(image, (CELL, CELL), Image.Resampling.LANCZOS))


def _empty(crossed: bool) -> npt.NDArray[np.uint8]:
    cell = np.full((CELL, CELL, 3), 242, dtype=np.uint8)
    if crossed:
        y, x = np.mgrid[:CELL, :CELL]
        middle = (abs(x - CELL / 2) < CELL / 5) & (abs(y - CELL / 2) < CELL / 5)
        cell[middle & ((abs(x - y) < 2) | (abs(x + y - CELL) < 2))] = 176
    return cell
