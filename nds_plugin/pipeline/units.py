"""What is clustered and scored: the images of a host's datasets, or crops of their objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nds_plugin.pipeline.host import Datasets
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.objects import ObjectConfig, crop_objects


def image_index(datasets: Datasets, names: Sequence[str]) -> SourceIndex:
    """The images of some datasets, in this order."""
    return SourceIndex.join([datasets.dataset(name).index() for name in names])


def object_index(
    datasets: Datasets, index: SourceIndex, names: Sequence[str], config: ObjectConfig
) -> SourceIndex:
    """Crops of the annotated objects of the images of an index.

    Args:
        datasets: where the names are known.
        index: of images of the datasets, as :func:`image_index` makes it; some may be left out.
        names: of the datasets.
        config: which objects.

    Raises:
        NDSError: none of the images has an annotated box.
    """
    rows, boxes, labels = [], [], []
    for name in names:
        dataset = datasets.dataset(name)
        found = dataset.boxes()
        position = np.array([index.classes.index(c) for c in dataset.classes()], np.int64)
        of_image = index.positions(found.sources, found.image_ids)
        there = of_image >= 0  # images without annotations are left out of some indexes
        rows.append(of_image[there])
        boxes.append(found.xywh[there])
        labels.append(position[found.labels[there]])
    return crop_objects(index, np.concatenate(rows), np.concatenate(boxes), np.concatenate(labels), config)
