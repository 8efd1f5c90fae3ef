"""The datasets that the plugin registers beside Detectron2's own. Registering reads no annotations.

======================================== ==========================================================
every split of a public dataset          :mod:`nds_plugin.datasets.catalogue`, where the files are
                                         described; docs/datasets.md
``NAME_annotated``                       the images of a detection split for training that have an
                                         instance, for Detectron2's own loaders
``nds_sample_DOMAIN_{train,val}``        the package's synthetic sample, made on first use
``nds_data_NAME_SPLIT``                  every ``$NDS_DATA/detection/NAME`` with ``images`` and
                                         ``SPLIT.json``
======================================== ==========================================================

Paths are relative to ``$DETECTRON2_DATASETS``. Names that start with ``nds_`` are of datasets that
Detectron2 has registered, too, under names of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from nds_plugin.d2.data.store_source import CocoDataset, PublicSplit, StoreSource, register_annotated
from nds_plugin.datasets.known_files import coco_folder, sample_files
from nds_plugin.datasets.public import Split, datasets_root
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)

_CLASS_METADATA = ("thing_classes", "thing_colors", "thing_dataset_id_to_contiguous_id")


def register_coco(dataset: CocoDataset, **metadata: Any) -> None:
    """Register a COCO file; see :func:`register_store`."""
    files = {"json_file": dataset.json_file, "image_root": dataset.image_root}
    register_store(dataset, **{**files, "evaluator_type": "coco", **metadata})


def register_store(dataset: StoreSource, **metadata: Any) -> None:
    """Register a dataset. Doing so again is harmless; other paths replace those of ours.

    A dataset of that name that somebody else registered stays as it is.
    """
    name = dataset.name
    if name in DatasetCatalog:
        present = DatasetCatalog[name]
        if present == dataset:
            return
        if not isinstance(present, StoreSource):
            logger.info("a dataset %r is registered already, it stays.", name)
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, dataset)
    MetadataCatalog.get(name).set(**metadata)


def register_coco_folder(root: str | os.PathLike[str], prefix: str) -> list[str]:
    """Register every ``ROOT/NAME/SPLIT.json`` with images in ``ROOT/NAME/images``.

    SPLIT is train, val or test. The dataset is called ``PREFIX_NAME_SPLIT``; a file
    ``SPLIT_LABELLING.json`` beside it becomes ``PREFIX_NAME_LABELLING_SPLIT``.

    Returns:
        The names.

    Raises:
        NDSError: see :func:`~nds_plugin.datasets.known_files.coco_folder`.
    """
    found = coco_folder(Path(root), prefix)
    for file in found:
        register_coco(CocoDataset(file.name, str(file.json_file), str(file.images)))
    return [file.name for file in found]


def register_all() -> None:
    """Register all the datasets above, for the present DETECTRON2_DATASETS and NDS_DATA."""
    root = str(datasets_root())
    _register_public(root)
    _register_sample(root)
    data = os.getenv("NDS_DATA")
    if data:
        try:
            register_coco_folder(os.path.join(data, "detection"), "nds_data")
        except NDSError as error:  # a stale variable must not make the package unusable
            logger.warning("NDS_DATA: %s", error)


def _register_public(root: str) -> None:
    from nds_plugin.datasets.catalogue import DATASETS

    for public in DATASETS:
        for split in public.splits:
            register_split(split, root)
            if public.task == "detection" and split.split.startswith("train"):
                register_annotated(split.name)


def register_split(split: Split, root: str | os.PathLike[str] | None = None) -> None:
    """Register a split of a public dataset that is not registered by itself.

    >>> register_split(openimages_split("validation", expand=True))

    Args:
        root: default ``$DETECTRON2_DATASETS``.
    """
    folder = Path(root) if root is not None else datasets_root()
    images = str(split.image_root(folder))
    dataset = PublicSplit(split.name, images, str(folder), split.spec)
    register_store(dataset, image_root=images, **_metadata(split.metadata, folder))


def _metadata(given: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A split's metadata: values that depend on the root are called with it; "like" names a dataset to follow."""
    values = {key: value(root) if callable(value) else value for key, value in given.items()}
    values = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    model = values.pop("like", None)
    if model is not None:
        known = MetadataCatalog.get(model)
        values.update({key: known.get(key) for key in _CLASS_METADATA if known.get(key) is not None})
    return {"evaluator_type": "coco", **values}


def _register_sample(root: str) -> None:
    for file in sample_files(Path(root)):
        register_coco(CocoDataset(file.name, str(file.json_file), str(file.images), prepare=file.prepare))
