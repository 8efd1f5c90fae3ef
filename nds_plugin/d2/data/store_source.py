"""Registered datasets that are annotation stores: built on first use, opened in no time afterwards.

The dicts are those of Detectron2's ``load_coco_json`` for a COCO file without faults; they are decoded
when they are asked for.
"""

from __future__ import annotations

import abc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from nds_plugin.d2.data.catalog import RegisteredDicts, catalogued
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.datasets.coco.store import KEYS, check_keys, coco_spec
from nds_plugin.datasets.public import ANNOTATED
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError, few
from nds_plugin.source.index import SourceIndex
from nds_plugin.store import AnnotationStore, StoreSpec
from nds_plugin.store.opening import open_once
from nds_plugin.store.view import StoreView

logger = logging.getLogger(__name__)

_told: set[str] = set()


class StoreSource(RegisteredDicts):
    """What ``DatasetCatalog`` calls for a dataset that is an annotation store.

    Attributes:
        name: the registered name.
        image_root: folder that the images' file names are relative to.
    """

    name: str
    image_root: str

    @abc.abstractmethod
    def spec(self) -> StoreSpec:
        """How the store is made; nothing is read before the dataset is used."""

    def open(self) -> AnnotationStore:
        """The store, built first where it is missing or out of date; safe in many processes at once.

        A process looks through the files that it is made from once.

        Raises:
            NDSError: its files are missing or broken, or it cannot be written.
        """
        return open_once(self.spec())

    def __call__(self) -> StoreDataset:
        """What ``DatasetCatalog.get`` returns: the dicts, and a word to who trains on them with a stock loader."""
        dicts = self.dicts()
        if "train" in self.name:
            say_unfiltered(self.name, dicts)
        return dicts

    def dicts(self) -> StoreDataset:
        """The dataset's dicts; sets ``thing_classes`` and the id map of its metadata."""
        store = self.open()
        ids = {category: i for i, category in enumerate(store.category_ids)}
        try:
            MetadataCatalog.get(self.name).set(
                thing_classes=store.classes, thing_dataset_id_to_contiguous_id=ids
            )
        except AssertionError:
            raise self._other_classes(store.classes, ids) from None
        return StoreDataset([StoreView.whole(store, self.image_root, self.name)])

    def _other_classes(self, classes: list[str], ids: dict[int, int]) -> NDSError:
        known = MetadataCatalog.get(self.name)
        if known.thing_classes != classes:
            return NDSError(
                f"dataset {self.name!r}: {self.where} lists the classes {few(classes, 3)}, but that "
                f"name is registered for the classes {few(known.thing_classes, 3)}: it is another dataset."
            )
        registered = known.thing_dataset_id_to_contiguous_id
        return NDSError(
            f"dataset {self.name!r}: {self.where} numbers its categories {few(ids, 3)}, but that name "
            f"is registered for the ids {few(registered, 3)} (thing_dataset_id_to_contiguous_id) of the "
            "same classes: number the categories alike, or register the file under another name."
        )

    @property
    def where(self) -> str:
        """What the annotations are called in messages."""
        return self.name

    def classes(self) -> list[str]:
        """Names of the classes in the order of the contiguous ids."""
        return self.open().classes

    def index(self) -> SourceIndex:
        """The index of the dataset's images; the source is called as the dataset."""
        return index_store(self.open(), self.image_root, self.name)

    def fingerprint(self) -> str:
        """Hash of what the store was built from."""
        return str(self.open().header["key"])


@dataclass(frozen=True)
class CocoDataset(StoreSource):
    """A COCO json file as a registered dataset.

    Attributes:
        json_file: path of the annotation file.
        prepare: makes the files on first use; it must be safe to call from several processes.
    """

    name: str
    json_file: str
    image_root: str
    prepare: Callable[[], Any] | None = field(default=None, compare=False)

    @property
    def where(self) -> str:
        """Path of the annotation file."""
        return self.json_file

    def spec(self) -> StoreSpec:
        """How the store is made; the annotation file is made ready first."""
        return coco_spec(self.located(), self.name)

    def open(self) -> AnnotationStore:
        """The store of the file, which must have images, annotations and categories."""
        store = super().open()
        check_keys(store, KEYS, self.json_file)
        return store

    def index(self) -> SourceIndex:
        """The index; a file without annotations gives images without a label."""
        return index_store(super().open(), self.image_root, self.name)

    def located(self) -> str:
        """Path of the json file, made ready first.

        Raises:
            NDSError: it is not there.
        """
        if self.prepare is not None:
            self.prepare()
        path = self.json_file
        if "://" in path:
            from detectron2.utils.file_io import PathManager

            path = str(PathManager.get_local_path(path))
        if not os.path.isfile(path):
            raise missing_file(self.name, path)
        return path


@dataclass(frozen=True)
class PublicSplit(StoreSource):
    """A split of a public dataset (:mod:`nds_plugin.datasets.catalogue`) as a registered dataset.

    Attributes:
        root: DETECTRON2_DATASETS.
        make_spec: how the store of the split is made below a root.
    """

    name: str
    image_root: str
    root: str
    make_spec: Callable[[Path], StoreSpec] = field(compare=False)

    def spec(self) -> StoreSpec:
        """How the store is made."""
        return self.make_spec(Path(self.root))


@dataclass(frozen=True)
class Annotated(RegisteredDicts):
    """The images of a registered dataset that have an instance, as a dataset of its own."""

    name: str
    base: str

    def dicts(self) -> DatasetDicts:
        """The dicts, as Detectron2's ``filter_empty`` leaves them; sets the metadata of the base."""
        dicts = catalogued(self.base)
        copy_metadata(self.base, self.name)
        return dicts.annotated()


def register_annotated(base: str) -> None:
    """Register ``BASE_annotated``: what Detectron2's loaders make of a list, which they do not filter in a store.

    A dataset of that name that somebody else registered stays as it is.
    """
    name = base + ANNOTATED
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, Annotated(name, base))
    elif not isinstance(DatasetCatalog[name], Annotated):
        return
    elif name in MetadataCatalog:
        MetadataCatalog.remove(name)  # the base may be another one now
    copy_metadata(base, name)


def copy_metadata(base: str, name: str) -> None:
    """Give a dataset that is a part of another one its metadata, but for the annotation file."""
    own = {"name", "json_file", "image_root"}
    values = {k: v for k, v in MetadataCatalog.get(base).as_dict().items() if k not in own}
    set_anew(name, **values)


def set_anew(name: str, **values: Any) -> None:
    """Set metadata of a dataset whose classes may be others by now: a selection may have been drawn again."""
    metadata = MetadataCatalog.get(name)
    metadata.__dict__.pop("thing_classes", None)  # Detectron2 refuses another value
    metadata.set(**values)


def say_unfiltered(name: str, dicts: DatasetDicts) -> None:
    """A WARNING, once in a process, that Detectron2's own loaders do not filter this dataset."""
    if name in _told or dicts.filtered_by_detectron2:
        return
    _told.add(name)
    empty = len(dicts) - len(dicts.annotated())
    if empty:
        logger.warning(
            "dataset %r: %d of its %d images have no instance. Detectron2's own loaders do not leave them out "
            "(DATALOADER.FILTER_EMPTY_ANNOTATIONS is for lists): train on %s, or with build_nds_train_loader.",
            name,
            empty,
            len(dicts),
            repr(name + ANNOTATED) if name + ANNOTATED in DatasetCatalog else "its dicts.annotated()",
        )


def missing_file(name: str, path: str) -> NDSError:
    """The error for a registered dataset whose annotation file is not there."""
    root = os.getenv("DETECTRON2_DATASETS")
    setting = f"is {root!r}" if root else 'is not set, so "datasets" is used'
    return NDSError(
        f"dataset {name!r}: annotation file not found: {path}. "
        f"DETECTRON2_DATASETS {setting}: point it at the folder that holds the datasets."
    )
