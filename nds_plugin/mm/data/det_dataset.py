"""What MMEngine and MMDetection ask of a dataset, for datasets that keep no list of dicts."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset

from nds_plugin.errors import NDSError

_REFETCHES = 1000  # MMEngine's own


class DetDataset(BaseDataset, abc.ABC):
    """A dataset of detection as MMDetection's loaders, metrics and wrappers know it, without BaseDataset's own list.

    Args:
        metainfo: with the names of the ``classes``.
        pipeline: transforms of every image; where it gives None in training, another image is taken.
        test_mode: of the test loaders.
    """

    def __init__(
        self,
        metainfo: Mapping[str, Any],
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
    ) -> None:
        super().__init__(
            metainfo=dict(metainfo), pipeline=list(pipeline), test_mode=test_mode, lazy_init=True
        )
        self._fully_initialized = True  # there is nothing to be read into a list

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """A fresh ``data_info`` of an image: img_id, img_path, height, width, instances."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The list that this dataset does without."""
        return [self.get_data_info(i) for i in range(len(self))]

    def get_subset_(self, indices: Any) -> None:  # noqa: ARG002
        """Not of a dataset without a list.

        Raises:
            NDSError: always; a draw of images is a selection.
        """
        raise NDSError(
            f"{type(self).__name__} has no subsets by position: draw a selection (nds draw) and use NDSSelection."
        )

    get_subset = get_subset_

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of an image's instances."""
        return [int(instance["bbox_label"]) for instance in self.get_data_info(idx)["instances"]]

    def __getitem__(self, idx: int) -> Any:
        for attempt in range(1 if self.test_mode else _REFETCHES):
            # The next one, not a random one: what a position gives does not depend on the process.
            example = self.prepare_data((int(idx) + attempt) % len(self))
            if example is not None:
                return example
        raise NDSError(
            f"the pipeline of {type(self).__name__} gives None for image {int(idx)}: see its transforms."
        )
