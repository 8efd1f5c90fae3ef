"""The one shape that a registered dataset has for ourselves, whether its dicts are a list or in a store."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class DatasetDicts(Sequence[dict[str, Any]]):
    """Detectron2's dicts of N images, and what is asked of all of them at once.

    What leaves images out keeps the others in their order.
    """

    @property
    @abc.abstractmethod
    def filtered_by_detectron2(self) -> bool:
        """Whether Detectron2's own loaders leave out its images without an instance, or need not."""

    @abc.abstractmethod
    def image_ids(self) -> pa.Array:
        """Ids of all images, as text."""

    @abc.abstractmethod
    def sources(self) -> pa.Array:
        """Name of the dataset that each image is of."""

    @abc.abstractmethod
    def sizes(self) -> npt.NDArray[np.int32] | None:
        """Width and height of each image, 0 where not known, shape (N, 2); None where dicts lack them."""

    @abc.abstractmethod
    def class_counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Instances of each class, crowds left out; shape (num_classes,)."""

    @abc.abstractmethod
    def take(self, rows: npt.NDArray[np.integer]) -> DatasetDicts:
        """The images at some positions."""

    @abc.abstractmethod
    def choose(self, image_ids: pa.Array) -> DatasetDicts:
        """The images of some ids, as text; unknown ids are passed over."""

    @abc.abstractmethod
    def annotated(self) -> DatasetDicts:
        """The images that have an instance: what Detectron2's ``filter_empty`` keeps of a list."""

    @abc.abstractmethod
    def relabelled(self, new_class: npt.NDArray[np.int32], label_space: int, source: str) -> DatasetDicts:
        """The same images in another label space, each marked with its source (``nds_source``).

        Args:
            new_class: the class that each becomes, -1 where its annotations are dropped; shape (classes,).
            label_space: number of the dataset's own label space, which the dicts carry.
            source: name of the dataset.
        """

    @abc.abstractmethod
    def clean(self, name: str) -> DatasetDicts:
        """With boxes clipped to their image, annotations whose box has no area dropped; a WARNING counts them.

        Raises:
            NDSError: no images.
        """

    @abc.abstractmethod
    def plain(self) -> Any:
        """What Detectron2's own code takes: a list, or a map-style dataset."""

    @abc.abstractmethod
    def packed(self) -> Any:
        """What loader workers share: gives a fresh dict for a position."""
