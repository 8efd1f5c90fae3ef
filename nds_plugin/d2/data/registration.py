"""Registered datasets by name: their dicts, classes and index, with one-line errors."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from nds_plugin.d2.data.catalog import RegisteredDicts, catalogued
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.known_datasets import register_coco
from nds_plugin.d2.data.list_dataset import ListDataset
from nds_plugin.d2.data.store_source import CocoDataset, StoreSource, copy_metadata, missing_file
from nds_plugin.datasets.image_subset import check_draw, check_subset, subset_rows
from nds_plugin.datasets.known_files import DATA_PREFIX, no_data
from nds_plugin.datasets.store_index import main_classes
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.store.schema import check_names

logger = logging.getLogger(__name__)

_checked: dict[str, tuple[Callable[..., Any], int]] = {}
_STOCK_COCO = ("detectron2.data.datasets.coco", "register_coco_instances.<locals>.<lambda>")


def check_registered(names: Sequence[str]) -> None:
    """Raise the error that lists the known names if a dataset is not registered."""
    for name in [names] if isinstance(names, str) else names:
        if name not in DatasetCatalog:
            of_data = f"{DATA_PREFIX}_"
            if name.startswith(of_data) and not any(n.startswith(of_data) for n in DatasetCatalog.list()):
                raise no_data(name)
            raise unknown_name("dataset", name, DatasetCatalog.list(), "nds datasets --list")


def store_source(name: str) -> StoreSource | None:
    """The annotation store behind a registered dataset, or None where its dicts come from elsewhere.

    Datasets that Detectron2 registered from a COCO file are read through a store, too.
    """
    check_registered([name])
    function = DatasetCatalog[name]
    if isinstance(function, StoreSource):
        return function
    files = _stock_coco_files(function)
    return None if files is None else CocoDataset(name, *files)


def _stock_coco_files(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Annotation file and image folder of what ``register_coco_instances`` registered; None for others.

    Not those of the metadata: derived datasets name a json file there for evaluation only. Copies of
    that function, and changed ones (which load "extra_annotation_keys", say), load by themselves.
    """
    code = getattr(function, "__code__", None)
    if code is None or (function.__module__, function.__qualname__) != _STOCK_COCO:
        return None
    values = dict(zip(code.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
    if set(values) != {"json_file", "image_root", "name"} or any(c is not None for c in code.co_consts):
        return None
    return os.fspath(values["json_file"]), os.fspath(values["image_root"])


def dataset_dicts(name: str) -> DatasetDicts:
    """The dicts of a registered dataset, with ids as they are.

    COCO files are read through their annotation store, also where Detectron2 registered them. In all
    datasets boxes are clipped to their image, and annotations whose box has no area are dropped; a
    WARNING counts them.

    Raises:
        NDSError: unknown name, files missing or broken, no images.
    """
    return raw_dicts(name).clean(name)


def raw_dicts(name: str) -> DatasetDicts:
    """The dicts of a registered dataset as they are registered.

    Raises:
        NDSError: unknown name, or its files are missing or broken.
    """
    source = store_source(name)
    return _call(name) if source is None else source.dicts()


def dataset_classes(name: str) -> list[str]:
    """Names of a dataset's classes, in the order of ``category_id`` in its dicts."""
    check_registered([name])
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        source = store_source(name)
        if source is not None:
            return source.classes()
        _call(name)
        classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        raise NDSError(f"dataset {name!r} has no thing_classes in its metadata: is it an instance dataset?")
    check_names(classes, f"dataset {name!r}")
    return list(classes)


def index_dataset(name: str) -> SourceIndex:
    """Index a registered instance dataset; the source is called as the dataset, in a drawn one as where each image is from."""
    source = store_source(name)
    if source is not None:
        return source.index()
    dicts = dataset_dicts(name)
    classes = dataset_classes(name)
    owners, labels, areas = [], [], []
    for position, record in enumerate(dicts):
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd"):
                owners.append(position)
                labels.append(annotation["category_id"])
                areas.append(_area(annotation))
    main = main_classes(
        np.array(owners, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(areas, dtype=np.float64),
        len(dicts),
    )
    records = []
    for record, label in zip(dicts, main.tolist()):
        if "image_id" not in record or "file_name" not in record:
            raise NDSError(
                f"dataset {name!r}: a dict lacks 'image_id' or 'file_name', it has {list(record)}."
            )
        size = int(record.get("width") or 0), int(record.get("height") or 0)
        of = str(record.get("nds_source", name))
        records.append(ImageRecord(of, str(record["image_id"]), str(record["file_name"]), *size, label=label))
    return SourceIndex.from_records(records, classes)


@dataclass(frozen=True)
class ImageSubset(RegisteredDicts):
    """A seeded random subset of a registered dataset's images, in the dataset's order.

    With one seed a smaller subset lies within every larger one.
    """

    name: str
    base: str
    num_images: int
    seed: int

    def dicts(self) -> DatasetDicts:
        """The dicts of the subset."""
        dicts = dataset_dicts(self.base)
        check_subset(self.name, self.base, self.num_images, len(dicts))
        copy_metadata(self.base, self.name)
        ids = dicts.image_ids().to_pylist()
        return dicts.take(subset_rows(ids, self.num_images, self.seed))


def register_image_subset(name: str, base: str, num_images: int, seed: int = 0) -> None:
    """Register a random subset of a dataset as a dataset; nothing is read yet.

    It has the metadata of its base but for the annotation file: an evaluator makes its own.

    Args:
        num_images: N > 0; that the base has so many is checked on loading.
        seed: >= 0.
    """
    check_registered([base])
    check_draw(base, num_images, seed)
    subset = ImageSubset(name, base, int(num_images), int(seed))
    if name in DatasetCatalog:
        if DatasetCatalog[name] == subset:
            return
        if not isinstance(DatasetCatalog[name], ImageSubset):
            raise NDSError(f"a dataset {name!r} is registered already: give the subset another name.")
        _unregister(name)
    DatasetCatalog.register(name, subset)
    copy_metadata(base, name)


@contextlib.contextmanager
def registered_temporarily(
    name: str,
    load: Callable[[], list[dict[str, Any]]] | None = None,
    *,
    json_file: str | None = None,
    image_root: str = "",
    **metadata: Any,
) -> Iterator[str]:
    """Register a dataset for the length of a block: by its function, or by a COCO file.

    >>> with registered_temporarily("tiny", json_file="tiny.json", image_root="images"):
    ...     dataset_dicts("tiny")
    """
    if name in DatasetCatalog:
        raise NDSError(f"a dataset {name!r} is registered already.")
    if (load is None) == (json_file is None):
        raise NDSError("registered_temporarily needs either a function or json_file.")
    if load is not None:
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(**metadata)
    else:
        register_coco(CocoDataset(name, str(json_file), str(image_root)), **metadata)
    try:
        yield name
    finally:
        _unregister(name)


def _unregister(name: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)


def _call(name: str) -> DatasetDicts:
    try:
        dicts = catalogued(name)
        function = DatasetCatalog[name]
        if isinstance(dicts, ListDataset) and _checked.get(name) != (function, len(dicts)):
            dicts.check(name, MetadataCatalog.get(name).get("thing_classes"))
            _checked[name] = function, len(dicts)  # once in a process: it goes through all annotations
        return dicts
    except NDSError:
        raise
    except FileNotFoundError as error:
        raise missing_file(name, str(error.filename or error)) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        hint = " Use nds_cityscapes_fine_instance_* instead." if name.startswith("cityscapes_fine_") else ""
        raise NDSError(
            f"dataset {name!r} cannot be loaded: {type(error).__name__}: {reason[:300]}.{hint}"
        ) from error


def _area(annotation: dict[str, Any]) -> float:
    if annotation.get("bbox_mode") == BoxMode.XYWHA_ABS:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    x0, y0, x1, y1 = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return float((x1 - x0) * (y1 - y0))
