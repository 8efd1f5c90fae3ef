"""Annotation stores as Detectron2 datasets: a map-style dataset that decodes one record at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from detectron2.structures import BoxMode
from torch.utils.data import Dataset

from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.errors import NDSError
from nds_plugin.source.folder import image_size
from nds_plugin.store.records import RecordDecoder, check_masks
from nds_plugin.store.view import StoreView


class StoreDataset(Dataset[dict[str, Any]], DatasetDicts):
    """Detectron2's dataset dicts of some views of stores, one after the other.

    To Detectron2 it is a map-style dataset, to other code it reads as the list of dicts; a record
    is decoded from the memory-mapped store when it is asked for, and only then. Pickled (for loader
    workers that are spawned), it travels as paths, and four bytes an image where not all were chosen.

    Args:
        views: the images of each store.
        mark_source: records say which dataset they are of (``nds_source``).
    """

    def __init__(self, views: Sequence[StoreView], mark_source: bool = False) -> None:
        self.views = tuple(views)
        self.mark_source = mark_source
        self._starts = np.cumsum([0, *(len(view) for view in self.views)]).tolist()
        self._decoders = [
            RecordDecoder(view.store, view.image_root, BoxMode.XYWH_ABS, image_size, view.class_map)
            for view in self.views
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.views, self.mark_source)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(index)
        number = 0
        while position >= self._starts[number + 1]:
            number += 1
        view = self.views[number]
        record = self._decoders[number](view.position(position - self._starts[number]))
        if self.mark_source:
            record["nds_source"] = view.source
        if view.label_space is not None:
            record["label_space"] = view.label_space
        return record

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def per_view(self, change: Callable[[StoreView], StoreView]) -> StoreDataset:
        """Another dataset of changed views; those left without images stay as empty ones."""
        return StoreDataset([change(view) for view in self.views], self.mark_source)

    @property
    def filtered_by_detectron2(self) -> bool:
        return any(view.store.has_labels for view in self.views)  # whole images have no instances to lack

    def take(self, rows: npt.NDArray[np.integer]) -> StoreDataset:
        chosen = np.zeros(len(self), dtype=bool)
        chosen[rows] = True
        parts = [chosen[a:b] for a, b in zip(self._starts, self._starts[1:])]
        views = [view.take(np.flatnonzero(part)) for view, part in zip(self.views, parts)]
        return StoreDataset(views, self.mark_source)

    def choose(self, image_ids: pa.Array) -> StoreDataset:
        return self.per_view(lambda view: view.choose(image_ids))

    def annotated(self) -> StoreDataset:
        return self.per_view(StoreView.annotated)

    def relabelled(self, new_class: npt.NDArray[np.int32], label_space: int, source: str) -> StoreDataset:
        views = [
            dataclasses.replace(view.with_classes(new_class, label_space), source=source)
            for view in self.views
        ]
        return StoreDataset(views, mark_source=True)

    def clean(self, name: str) -> StoreDataset:
        del name  # nothing to tell of: clean since its store was built
        return self

    def plain(self) -> StoreDataset:
        return self

    def packed(self) -> StoreDataset:
        return self  # decodes what it is asked for

    def image_ids(self) -> pa.Array:
        return pa.concat_arrays([view.image_ids() for view in self.views])

    def sources(self) -> pa.Array:
        names = pa.array([view.source for view in self.views], pa.string())
        numbers = np.repeat(np.arange(len(self.views), dtype=np.int32), [len(view) for view in self.views])
        return pa.DictionaryArray.from_arrays(pa.array(numbers), names)

    def sizes(self) -> npt.NDArray[np.int32]:
        return np.concatenate([view.sizes() for view in self.views])

    def class_counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        return np.sum([view.class_counts(num_classes) for view in self.views], axis=0, dtype=np.int64)

    def check_masks(self) -> None:
        """See that run lengths fit the images; see :func:`nds_plugin.store.records.check_masks`."""
        for view, decode in zip(self.views, self._decoders):
            check_masks(view, decode)

    @classmethod
    def joined(cls, datasets: Sequence[StoreDataset]) -> StoreDataset:
        """Several datasets as one."""
        if not datasets:
            raise NDSError("no dataset to join.")
        mark = any(dataset.mark_source for dataset in datasets)
        return cls([view for dataset in datasets for view in dataset.views], mark)
