"""The eleven datasets of Table 3 of the paper, in its order.

Nothing is read on import; each module says what its dataset is, and how its stores are made.
"""

from __future__ import annotations

from nds_plugin.datasets.coco_2017 import COCO
from nds_plugin.datasets.public import PublicDataset
from nds_plugin.errors import unknown_name

DATASETS: tuple[PublicDataset, ...] = (
    # Downsampled ImageNet
    # OpenImages
    COCO,
    # VOC2007
    # miniModaNet
    # Cityscapes
    # Stanford Dogs
    # Stanford Cars
    # Oxford-IIIT Pets
    # Flowers 102
    # CUB200 Birds
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
