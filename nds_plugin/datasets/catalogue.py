"""The eleven datasets of Table 3 of the paper, in its order.

Nothing is read on import; each module says what its dataset is, and how its stores are made.
"""

from __future__ import annotations

from nds_plugin.datasets.coco_2017 import COCO
from nds_plugin.datasets.cub_200 import CUB_200
from nds_plugin.datasets.flowers_102 import FLOWERS_102
from nds_plugin.datasets.oxford_pets import OXFORD_PETS
from nds_plugin.datasets.public import PublicDataset
from nds_plugin.datasets.stanford_cars import STANFORD_CARS
from nds_plugin.datasets.stanford_dogs import STANFORD_DOGS
from nds_plugin.datasets.voc import VOC2007
from nds_plugin.errors import unknown_name

DATASETS: tuple[PublicDataset, ...] = (
    # Downsampled ImageNet
    # OpenImages
    COCO,
    VOC2007,
    # miniModaNet
    # Cityscapes
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
