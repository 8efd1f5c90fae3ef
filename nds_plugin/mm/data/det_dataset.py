"""What MMEngine and MMDetection ask of a dataset, for datasets that are not BaseDataset's children."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import Compose
from torch.utils.data import Dataset

from nds_plugin.errors import NDSError

_REFETCHES = 1000  # MMEngine's own


class DetDataset(Dataset[Any], abc.ABC):
    """A dataset of detection as MMDetection's loaders, metrics and wrappers know it.

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
        self._metainfo = dict(metainfo)
        self.pipeline = Compose(list(pipeline))
        self.test_mode = test_mode

    @property
    def metainfo(self) -> dict[str, Any]:
        """Names of the classes and what else is said of all images."""
        return copy.deepcopy(self._metainfo)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """A fresh ``data_info`` of an image: img_id, img_path, height, width, instances."""

    def full_init(self) -> None:
        """Part of MMEngine's contract; nothing is left to be read."""

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of an image's instances."""
        return [int(instance["bbox_label"]) for instance in self.get_data_info(idx)["instances"]]

    def prepare_data(self, idx: int) -> Any:
        """What the pipeline makes of an image, or None."""
        return self.pipeline(self.get_data_info(idx))

    def __getitem__(self, idx: int) -> Any:
        for attempt in range(1 if self.test_mode else _REFETCHES):
            # The next one, not a random one: what a position gives does not depend on the process.
            example = self.prepare_data((int(idx) + attempt) % len(self))
            if example is not None:
                return example
        raise NDSError(
            f"the pipeline of {type(self).__name__} gives None for image {int(idx)}: see its transforms."
        )
