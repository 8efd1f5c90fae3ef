"""The eleven datasets of Table 3 of the paper, in its order.

Nothing is read on import; each module says what its dataset is, and how its stores are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from nds_plugin.datasets.cityscapes.split import CITYSCAPES
from nds_plugin.datasets.coco.coco_2017 import COCO
from nds_plugin.datasets.coco.modanet import MODANET
from nds_plugin.datasets.imagenet.downsampled import DOWNSAMPLED_IMAGENET
from nds_plugin.datasets.openimages.split import OPENIMAGES
from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.voc.split import VOC2007
from nds_plugin.datasets.whole_images.cub_200 import CUB_200
from nds_plugin.datasets.whole_images.flowers_102 import FLOWERS_102
from nds_plugin.datasets.whole_images.oxford_pets import OXFORD_PETS
from nds_plugin.datasets.whole_images.stanford_cars import STANFORD_CARS
from nds_plugin.datasets.whole_images.stanford_dogs import STANFORD_DOGS
from nds_plugin.errors import UnknownNameError, did_you_mean, unknown_name

DATASETS: tuple[PublicDataset, ...] = (
    DOWNSAMPLED_IMAGENET,
    OPENIMAGES,
    COCO,
    VOC2007,
    MODANET,
    CITYSCAPES,
    STANFORD_DOGS,
    STANFORD_CARS,
    OXFORD_PETS,
    FLOWERS_102,
    CUB_200,
)


def find(key: str) -> PublicDataset:
    """A dataset by its key.

    Raises:
        NDSError: unknown; lists the known ones.
    """
    for dataset in DATASETS:
        if dataset.key == key:
            return dataset
    raise unknown_name("dataset", key, [dataset.key for dataset in DATASETS])


def find_split(name: str) -> Split | None:
    """A split by the name of its source, None where there is none of that name."""
    return next((split for dataset in DATASETS for split in dataset.splits if split.name == name), None)


def select(names: Sequence[str]) -> list[tuple[PublicDataset, list[Split]]]:
    """Datasets and splits by name, in the catalogue's order; no names or "all": everything.

    Args:
        names: keys of datasets, and names of splits.

    Raises:
        NDSError: a name is unknown; lists the known ones.
    """
    wanted, keys = set(names), [dataset.key for dataset in DATASETS]
    for name in names:
        if name != "all" and name not in keys and find_split(name) is None:
            names_of_splits = [split.name for dataset in DATASETS for split in dataset.splits]
            near = did_you_mean(name, [*keys, *names_of_splits])
            raise UnknownNameError(
                f"unknown dataset {name!r}.{near} Known: all, {', '.join(keys)}, or a split of one."
            )
    chosen = []
    for dataset in DATASETS:
        whole = not wanted or "all" in wanted or dataset.key in wanted
        splits = [split for split in dataset.splits if whole or split.name in wanted]
        if splits:
            chosen.append((dataset, splits))
    return chosen
