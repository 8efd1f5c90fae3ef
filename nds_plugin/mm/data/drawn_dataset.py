"""The dataset under the training loop's loader: seeds augmentation by position, replaces what cannot be read."""

from __future__ import annotations

from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_image
from nds_plugin.mm.data.identity import Identities, identities, part_of
from nds_plugin.mm.data.sampler import DrawnIndex, NDSInfiniteSampler
from nds_plugin.selection.drawn_images import DrawnImages

_OWN = ("dataset", "_images")


class DrawnDataset:
    """A dataset of MMEngine as it was built, to all who look at it; only the draw's own indices are treated otherwise.

    A training example drawn by NDSInfiniteSampler is made under a seed of its place in the stream, so
    that it looks the same on any number of workers and after a resume; its data sample carries
    ``nds_drawn`` (the image that the stream gave), ``nds_index`` (the one that was read, both as places
    among the images that can be drawn) and ``nds_cluster`` in its metainfo.
    """

    def __init__(self, dataset: Any) -> None:
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "_images", None)

    def draw_by(self, sampler: NDSInfiniteSampler, max_unreadable: float) -> None:
        """Follow a sampler of this dataset."""
        object.__setattr__(self, "_images", _Images(self.dataset, sampler, max_unreadable))

    @property
    def unreadable(self) -> int:
        """Images that could not be read so far, in this process and its workers."""
        return 0 if self._images is None else int(self._images.unreadable.sum())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if self._images is None or not isinstance(index, DrawnIndex):
            return self.dataset[index]
        return self._images[index]

    def identities(self, source: str | None = None) -> Identities:
        """See :func:`nds_plugin.mm.data.identity.identities`."""
        return identities(self.dataset, source)

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)  # a hook that changes the pipeline means the dataset's own

    def __deepcopy__(self, _: Any) -> DrawnDataset:
        return self  # MMEngine copies the loader's config with what is in it

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.dataset, self._images)


def _restored(dataset: Any, images: Any) -> DrawnDataset:
    found = DrawnDataset(dataset)
    object.__setattr__(found, "_images", images)
    return found


class _Images(DrawnImages):
    """Places among the drawable images of a dataset."""

    def __init__(self, dataset: Any, sampler: NDSInfiniteSampler, max_unreadable: float) -> None:
        placed, setting = sampler.drawable.placed, "train_cfg.max_unreadable"
        super().__init__(placed.cluster, sampler.seed, max_unreadable, setting, placed)
        self._dataset = dataset
        self._order = sampler.drawable.order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: DrawnIndex) -> Any:
        example, read = self.drawn(index.position, index.place)
        if not hasattr(sample := example.get("data_samples"), "set_metainfo"):
            raise NDSError(
                "the training pipeline gives no data_samples: it must end in PackDetInputs, so that the draw can be checked."
            )
        cluster = int(self.cluster[index.place])
        sample.set_metainfo({"nds_drawn": index.place, "nds_index": read, "nds_cluster": cluster})
        return example

    def load(self, index: int) -> Any:
        part, position = part_of(self._dataset, int(self._order[index]))
        try:
            # Not by __getitem__, which takes any other image where the pipeline gives None.
            return part.prepare_data(position) if hasattr(part, "prepare_data") else part[position]
        except KeyError as error:
            if error.args != ("mask",):
                raise
            raise NDSError(
                f"{self.file_name(index)} has an object without a mask, and the pipeline loads masks: take NDSLoadAnnotations in "
                "place of LoadAnnotations and NDSRoIHead in place of StandardRoIHead (of nds_plugin.mm.model.mixed), or with_mask=False."
            ) from None

    def fault(self, index: int) -> ImageError | None:
        path = self.file_name(index)
        if "://" in path:
            return None
        try:
            load_image(path)
        except ImageError as error:
            return error
        return None

    def file_name(self, index: int) -> str:
        part, position = part_of(self._dataset, int(self._order[index]))
        return str(part.get_data_info(position).get("img_path"))
