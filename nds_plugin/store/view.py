"""Images of one or several stores under one label space: selecting, filtering, counting, joining.

All of it on columns; no record is decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError
from nds_plugin.store.reader import AnnotationStore


@dataclass(frozen=True)
class StoreView:
    """Some images of a store, in an order, with classes of another label space if need be.

    Attributes:
        store: the store.
        image_root: folder that the images' file names are relative to.
        source: name of the dataset.
        chosen: positions in the store, int32 of shape (N,); None: all of them, which costs no memory in
            any process.
        class_map: int32 of shape (classes,): the class that each of the store's becomes, -1 where it
            is left out; None: its own.
        label_space: number that records carry where several label spaces are joined.
    """

    store: AnnotationStore
    image_root: str
    source: str
    chosen: npt.NDArray[np.int32] | None = None
    class_map: npt.NDArray[np.int32] | None = None
    label_space: int | None = None

    @classmethod
    def whole(cls, store: AnnotationStore, image_root: str, source: str) -> StoreView:
        """All images of a store."""
        return cls(store, image_root, source)

    def __len__(self) -> int:
        return len(self.store) if self.chosen is None else len(self.chosen)

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """Positions in the store, shape (N,)."""
        return np.arange(len(self.store), dtype=np.int32) if self.chosen is None else self.chosen

    def position(self, index: int) -> int:
        """Position in the store of one of the images."""
        return index if self.chosen is None else int(self.chosen[index])

    def take(self, rows: npt.NDArray[Any]) -> StoreView:
        """Those at some positions of this view (or where a mask is true)."""
        return dataclasses.replace(self, chosen=self.rows[rows])

    def with_classes(self, class_map: npt.NDArray[np.int32], label_space: int) -> StoreView:
        """The same images with other classes.

        Raises:
            NDSError: the map is not of this store's classes.
        """
        if len(class_map) != len(self.store.classes):
            raise NDSError(
                f"{self.source}: a class map of {len(class_map)} entries for its {len(self.store.classes)} classes."
            )
        return dataclasses.replace(self, class_map=np.asarray(class_map, np.int32), label_space=label_space)

    def choose(self, image_ids: Sequence[str] | pa.Array) -> StoreView:
        """The images of some ids (as text), in this view's order; unknown ids are passed over."""
        wanted = pc.is_in(self.image_ids(), value_set=pa.array(image_ids, pa.string()))
        return self.take(np.asarray(wanted.to_numpy(zero_copy_only=False), dtype=bool))

    def image_ids(self) -> pa.Array:
        """The ids as text."""
        column = self.store.text_column("image_id")
        joined = pa.concat_arrays(column.chunks)
        return joined if self.chosen is None else joined.take(pa.array(self.chosen))

    def sizes(self) -> npt.NDArray[np.int32]:
        """Width and height, 0 where the provider does not say and the file was not there; shape (N, 2)."""
        return np.stack([self.store.column("width"), self.store.column("height")], axis=1)[self._index]

    def instance_counts(self) -> npt.NDArray[np.int64]:
        """Annotations that are no crowd and whose class is kept, of each image; shape (N,)."""
        found = np.zeros(len(self.store), dtype=np.int64)
        for number, first in self._batches():
            objects = self.store.objects(number)
            kept = objects.columns["iscrowd"] != 1
            if self.class_map is not None:
                kept &= self._classes(objects.columns["category"]) >= 0
            before = np.concatenate([[0], np.cumsum(kept)])
            found[first : first + len(objects.starts) - 1] = np.diff(before[objects.starts])
        return found[self._index]

    def annotated(self) -> StoreView:
        """Those with at least one such annotation: what Detectron2's ``filter_empty`` keeps."""
        return self.take(self.instance_counts() > 0)

    def class_counts(self, num_classes: int | None = None) -> npt.NDArray[np.int64]:
        """Annotations of each class that are no crowd; shape (classes of the label space,)."""
        size = num_classes or (
            len(self.store.classes) if self.class_map is None else int(self.class_map.max()) + 1
        )
        chosen = np.zeros(len(self.store), dtype=bool)
        chosen[self._index] = True
        counts = np.zeros(size, dtype=np.int64)
        for number, first in self._batches():
            objects = self.store.objects(number)
            images = np.diff(objects.starts)
            mask = np.repeat(chosen[first : first + len(images)], images)
            mask &= objects.columns["iscrowd"] != 1
            classes = self._classes(objects.columns["category"][mask])
            counts += np.bincount(classes[classes >= 0], minlength=size)
        return counts

    @property
    def _index(self) -> Any:
        return slice(None) if self.chosen is None else self.chosen

    def _classes(self, categories: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return categories if self.class_map is None else self.class_map[categories]

    def _batches(self) -> list[tuple[int, int]]:
        return list(enumerate(self.store.batch_starts))
