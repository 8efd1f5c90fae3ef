"""The edge to ``DatasetCatalog``: what comes out of it has one shape from here on."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog

from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.list_dataset import ListDataset
from nds_plugin.d2.data.store_dataset import StoreDataset


class RegisteredDicts(abc.ABC):
    """What ``DatasetCatalog`` calls for a dataset of ours."""

    @abc.abstractmethod
    def dicts(self) -> DatasetDicts:
        """The dataset's dicts, as they are for ourselves."""

    def __call__(self) -> Any:
        """What ``DatasetCatalog.get`` returns."""
        return self.dicts().plain()


def catalogued(name: str) -> DatasetDicts:
    """The dicts of a registered dataset, whatever its function returns."""
    function = DatasetCatalog[name]
    result = function.dicts() if isinstance(function, RegisteredDicts) else function()
    if isinstance(result, StoreDataset):
        return result
    # A map-style dataset is as good as a list to Detectron2's loader.
    records = result if isinstance(result, list) else [result[i] for i in range(len(result))]
    return ListDataset(records, [record.get("nds_source", name) for record in records])


def joined(parts: Sequence[DatasetDicts]) -> DatasetDicts:
    """Several datasets as one; where one of them is a list, all are."""
    stored = [part for part in parts if isinstance(part, StoreDataset)]
    if stored and len(stored) == len(parts):
        return StoreDataset.joined(stored)
    records = [record for part in parts for record in part]
    return ListDataset(records, [name for part in parts for name in part.sources().to_pylist()])
