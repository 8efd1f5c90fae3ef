"""What is clustered and scored: the images of registered datasets, or crops of their objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode as CN
from detectron2.structures import BoxMode

from nds_plugin.d2.data.registration import check_registered, dataset_classes, dataset_dicts, index_dataset
from nds_plugin.d2.train.stages import finetune_config
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.objects import ObjectConfig, crop_objects


def target_index(cfg: CN) -> SourceIndex:
    """The client's images: NDS.TARGET.DATASETS, else those it fine-tunes on."""
    return SourceIndex.join([index_dataset(name) for name in target_datasets(cfg)])


def target_datasets(cfg: CN) -> list[str]:
    """Names of the datasets of the client's images."""
    names = list(cfg.NDS.TARGET.DATASETS) or list(finetune_config(cfg).DATASETS.TRAIN)
    check_registered(names)
    return names


def object_index(index: SourceIndex, names: Sequence[str], config: ObjectConfig) -> SourceIndex:
    """Crops of the annotated objects of the images of an index.

    Args:
        index: of images of the datasets, as :func:`index_dataset` makes it.
        names: the registered datasets.
        config: which objects.

    Raises:
        NDSError: none of the images has an annotated box.
    """
    rows: list[int] = []
    boxes: list[list[float]] = []
    labels: list[int] = []
    for name in names:
        position = {label: index.classes.index(c) for label, c in enumerate(dataset_classes(name))}
        dicts = dataset_dicts(name)
        sources = [str(d.get("nds_source", name)) for d in dicts]
        places = index.positions(sources, [str(d["image_id"]) for d in dicts])
        for record, row in zip(dicts, places.tolist()):
            if row < 0:  # left out of the index, as it has no annotation
                continue
            for annotation in record.get("annotations", ()):
                if not annotation.get("iscrowd"):
                    rows.append(row)
                    labels.append(position[annotation["category_id"]])
                    boxes.append(_xywh(annotation))
    corner = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return crop_objects(index, np.asarray(rows, np.int64), corner, np.asarray(labels, np.int64), config)


def _xywh(annotation: dict[str, object]) -> list[float]:
    box = list(annotation["bbox"])  # type: ignore[call-overload]
    return [float(v) for v in BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)]
