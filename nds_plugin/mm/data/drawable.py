"""The images of a dataset that a selection draws from, in the order that makes the draw the same in every host."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, read_header
from nds_plugin.mm.data.identity import Identities, identities, refuse_twice
from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.selection.selection import KIND, Selection
from nds_plugin.selection.streams import is_wide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawable:
    """M images that can be drawn.

    Attributes:
        order: position in the dataset of each; int64 of shape (M,). With a selection they stand as its
            rows do, so that the draw does not depend on how a dataset orders or filters its images.
        placed: the selection over them.
        wide: 1 where an image is wider than tall or its size is not known; int8 of shape (M,).
        key: of the selection, or of the images where all are taken alike.
    """

    order: npt.NDArray[np.int64]
    placed: PlacedSelection
    wide: npt.NDArray[np.int8]
    key: str

    def __len__(self) -> int:
        return len(self.order)


def drawable(dataset: Any, path: str | None) -> Drawable:
    """The images of a dataset that can be drawn.

    Args:
        dataset: any of MMEngine's kind, see :func:`nds_plugin.mm.data.identity.identities`.
        path: of a selection; None: every image, in shuffled epochs.

    Raises:
        NDSError: the file is no selection, its images are not in the dataset, or an image is there twice.
    """
    if path is None:
        return _all_of(identities(dataset, type(dataset).__name__))
    selection = Selection.load(path)
    only = selection.sources[0] if len(selection.sources) == 1 else None
    found = identities(dataset, only)
    rows = selection.rows_of(found.sources, found.image_ids)
    refuse_twice(rows, found)
    order = np.flatnonzero(rows >= 0)
    order = order[np.argsort(rows[order], kind="stable")]
    taken = pa.array(order)
    placed = selection.placed(found.sources.take(taken), found.image_ids.take(taken))
    _tell_missing(selection, found, len(order), path)
    return Drawable(order, placed, is_wide(found.sizes)[order], str(read_header(path, KIND)["key"]))


def _all_of(found: Identities) -> Drawable:
    count = len(found.image_ids)
    if count == 0:
        raise NDSError("the dataset has no image to train on.")
    placed = PlacedSelection("subset", np.ones(1), np.zeros(count, np.int32))
    return Drawable(
        np.arange(count), placed, is_wide(found.sizes), content_hash(["all", found.image_ids.to_pylist()])
    )


def _tell_missing(selection: Selection, found: Identities, count: int, path: str) -> None:
    own = pc.unique(selection.column("source").cast(pa.string())).to_pylist()
    there = set(pc.unique(found.sources).to_pylist())
    absent = [name for name in own if name not in there]
    if absent:
        raise NDSError(
            f"{path} holds images of {', '.join(absent)}, which the dataset does not: it has {', '.join(sorted(there))}. "
            "Join all sources by NDSSelection, or draw from fewer."
        )
    if count < len(selection):
        logger.warning(
            "%d of the %d images of %s are not trained on: the dataset filters them, or lacks them. Is it the dataset that was "
            "selected from, with the names of its classes as the file spells them?",
            len(selection) - count,
            len(selection),
            path,
        )
