"""The lists of OpenImages' masks, and which box each is of.

The list of boxes does not number them, so a mask and its box are told by image, class and corners.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.datasets.openimages.csv import BoxRows, Classes, stream_csv
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)

TOLERANCE = 2e-6  # of a side: boxes are printed with six digits in the list of masks
_CORNERS = ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax")


@dataclass(frozen=True)
class MaskRows:
    """The list of a split's masks, in the order of their images' ids.

    Attributes:
        name: of the PNG. image: position in ``images``, int64.
        images: the ids, each once, ascending.
        category: position in the classes, int64.
        corners: XMin, XMax, YMin, YMax of the mask's box; float64 of shape (N, 4).
    """

    name: pa.Array
    image: npt.NDArray[np.int64]
    images: pa.Array
    category: npt.NDArray[np.int64]
    corners: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    def boxes(self, rows: npt.NDArray[np.int64], flags: npt.NDArray[np.uint8]) -> BoxRows:
        """The boxes of some masks.

        Args:
            flags: of all masks.
        """
        ids = self.images.take(pa.array(self.image[rows]))
        return BoxRows(ids, self.category[rows], self.corners[rows], flags[rows])


def read_mask_rows(path: Path, known: Classes, classes: Classes, where: str) -> MaskRows:
    """Read ``train-annotations-object-segmentation.csv``; held as columns, about 120 bytes a mask, three times that while it is sorted.

    Args:
        known: all classes. classes: those wanted; masks of others are left out.

    Raises:
        NDSError: see :func:`stream_csv`; a class that is not known, no mask, or a PNG named twice.
    """
    kinds = {
        "MaskPath": pa.string(),
        "ImageID": pa.string(),
        "LabelName": pa.dictionary(pa.int32(), pa.string()),
        **dict.fromkeys(_CORNERS, pa.float64()),
    }
    tables, left_out = [], 0
    for batch in stream_csv(path, kinds):
        labels = batch.column("LabelName")
        unknown = np.flatnonzero(known.positions(labels) < 0)
        if len(unknown):
            row = int(unknown[0])
            raise NDSError(
                f"{path}: {len(unknown)} masks are of no class that class-descriptions-boxable.csv lists, first "
                f"{labels[row].as_py()!r} of image {batch.column('ImageID')[row].as_py()!r}."
            )
        category = classes.positions(labels)
        table = pa.Table.from_batches([batch]).drop_columns(["LabelName"])
        table = table.append_column("category", pa.array(category)).filter(pa.array(category >= 0))
        left_out += len(batch) - len(table)
        tables.append(table)
    if left_out:
        logger.info("%s: %d masks of other classes than the list's are left out.", where, left_out)
    if not sum(map(len, tables)):
        raise NDSError(f"{path} lists no masks.")
    return _sorted(pa.concat_tables(tables), path)


def _sorted(table: pa.Table, path: Path) -> MaskRows:
    table = table.take(pc.sort_indices(table, [("ImageID", "ascending"), ("MaskPath", "ascending")]))
    names, ids = (table.column(name).combine_chunks() for name in ("MaskPath", "ImageID"))
    twice = pc.equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    if twice.any():
        first = names[int(np.flatnonzero(twice)[0])].as_py()
        raise NDSError(f"{path}: {int(twice.sum())} masks occur more than once, first {first!r}.")
    new = np.r_[True, pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)]
    return MaskRows(
        name=names,
        image=np.cumsum(new) - 1,
        images=ids.filter(pa.array(new)),
        category=table.column("category").to_numpy(),
        corners=np.stack([table.column(name).to_numpy() for name in _CORNERS], axis=1),
    )


class BoxMatcher:
    """Finds the box of each mask: same image, same class, same corners.

    Attributes:
        flags: of each mask, those of its box; uint8.
        matched: which masks have found theirs.
    """

    def __init__(self, masks: MaskRows, num_classes: int) -> None:
        self._classes = num_classes
        self.flags = np.zeros(len(masks), dtype=np.uint8)
        self.matched = np.zeros(len(masks), dtype=bool)
        keys = masks.image * num_classes + masks.category
        self._order = np.argsort(keys, kind="stable")
        self._keys, self._corners = keys[self._order], masks.corners[self._order]

    def take(self, boxes: BoxRows, image: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Hand the flags of some boxes to their masks; which of the boxes have one.

        Args:
            boxes: of the classes of the masks.
            image: position of each one's image among those of the masks.
        """
        keys = image * self._classes + boxes.category
        first = np.searchsorted(self._keys, keys, "left")
        counts = np.searchsorted(self._keys, keys, "right") - first
        box = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = np.repeat(first, counts) + within
        near = (np.abs(self._corners[place] - boxes.corners[box]) <= TOLERANCE).all(axis=1)
        masks = self._order[place[near]]
        self.flags[masks] = boxes.flags[box[near]]
        self.matched[masks] = True
        has_mask = np.zeros(len(keys), dtype=bool)
        has_mask[box[near]] = True
        return has_mask
