"""The host of files and folders: the paper's datasets by name, COCO files and folders of images, one process."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nds_plugin.datasets.catalogue import DATASETS, find_split
from nds_plugin.datasets.coco.coco_2017 import DETECTRON2_NAMES
from nds_plugin.datasets.coco.store import check_keys, coco_spec
from nds_plugin.datasets.image_subset import (
    check_draw,
    check_subset,
    subset_fingerprint,
    subset_name,
    subset_rows,
)
from nds_plugin.datasets.known_files import find_coco_file, known_coco_files
from nds_plugin.datasets.public import datasets_root
from nds_plugin.datasets.store_index import index_store
from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import content_hash
from nds_plugin.pipeline.host import Boxes, NamedDataset
from nds_plugin.source.folder import image_size, index_folder
from nds_plugin.source.index import SourceIndex, take_rows
from nds_plugin.source.source_names import coco_name
from nds_plugin.store import AnnotationStore, StoreSpec
from nds_plugin.store.opening import open_once
from nds_plugin.store.records import RecordDecoder, check_masks
from nds_plugin.store.view import StoreView


class FilesHost(OneProcess):
    """A :class:`~nds_plugin.pipeline.host.Host` without a training framework.

    Knows the paper's datasets below DETECTRON2_DATASETS, and what is added to it.

    Args:
        registered: a training framework's dataset by its name; asked for all other names.
    """

    def __init__(self, registered: Callable[[str], NamedDataset] | None = None) -> None:
        self._added: dict[str, NamedDataset] = {}
        self._registered = registered

    def add_coco(
        self, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str], name: str = ""
    ) -> str:
        """Add a COCO file; its name, by default that of :func:`coco_name`. Nothing is read yet.

        Raises:
            NDSError: the name is taken.
        """
        path = os.fspath(json_file)
        name = name or coco_name(path)
        return self._add(name, StoredDataset(name, os.fspath(image_root), coco_spec(path, name), path))

    def add_folder(self, folder: str | os.PathLike[str], name: str) -> str:
        """Add a folder of images; its name. Nothing is read yet.

        Raises:
            NDSError: the name is taken.
        """
        return self._add(name, ImageFolder(name, os.fspath(folder)))

    def _add(self, name: str, dataset: NamedDataset) -> str:
        if name in self._added or find_split(name):
            raise NDSError(f"there is a dataset {name!r} already: give the other one another name.")
        self._added[name] = dataset
        return name

    def dataset(self, name: str) -> NamedDataset:
        """A dataset by its name: one that was added, one of the paper's, or a framework's."""
        if name in self._added:
            return self._added[name]
        split = find_split(DETECTRON2_NAMES.get(name, name))
        if split is not None:
            root = datasets_root()
            return StoredDataset(name, str(split.image_root(root)), split.spec(root))
        file = find_coco_file(name)
        if file is not None:
            if file.prepare:
                file.prepare()
            return StoredDataset(name, str(file.images), coco_spec(file.json_file, name), str(file.json_file))
        if self._registered is None:
            raise unknown_name("dataset", name, self.names(), "nds datasets --list")
        return self._registered(name)

    def subset(self, base: str, num_images: int, seed: int) -> str:
        """Add a seeded random subset of a dataset's images as a dataset; its name. Nothing is read yet.

        Args:
            num_images: N > 0; that the base has so many is checked on reading.
            seed: >= 0.
        """
        check_draw(base, num_images, seed)
        name = subset_name(base, num_images, seed)
        found = self.dataset(base)
        if not isinstance(found, StoredDataset):
            raise NDSError(f"dataset {base!r} has no annotations: a subset of its images cannot be drawn.")
        self._added[name] = replace(found, name=name, subset=Subset(base, num_images, seed))
        return name

    def names(self) -> list[str]:
        """The names of all that is known."""
        public = [split.name for dataset in DATASETS for split in dataset.splits]
        return [*self._added, *public, *(file.name for file in known_coco_files())]


@dataclass(frozen=True)
class Subset:
    """A seeded random draw of a dataset's images; see :func:`~nds_plugin.datasets.image_subset.subset_rows`.

    Attributes:
        base: name of the dataset. num_images, seed: of the draw.
    """

    base: str
    num_images: int
    seed: int


@dataclass(frozen=True)
class StoredDataset:
    """A dataset that is read through an annotation store.

    Attributes:
        name: of the dataset and of the source.
        image_root: folder that the images' file names are relative to.
        spec: how the store is made, on first use.
        json_file: the COCO file that it is made from; empty for other formats.
        subset: the draw of its images that the dataset is, None for all of them.
    """

    name: str
    image_root: str
    spec: StoreSpec
    json_file: str = ""
    subset: Subset | None = None

    def _open(self) -> AnnotationStore:
        store = open_once(self.spec)
        if self.json_file:
            check_keys(store, ("images",), self.json_file)
        return store

    def view(self) -> StoreView:
        """The images, in the store."""
        view = StoreView.whole(self._open(), self.image_root, self.name)
        if self.subset is None:
            return view
        check_subset(self.name, self.subset.base, self.subset.num_images, len(view))
        rows = subset_rows(view.image_ids().to_pylist(), self.subset.num_images, self.subset.seed)
        return view.take(rows)

    def records(self) -> Iterator[dict[str, Any]]:
        """The images with their annotations, one after the other."""
        view = self.view()
        decode = self._decoder(view)
        return (decode(view.position(i)) for i in range(len(view)))

    def _decoder(self, view: StoreView) -> RecordDecoder:
        return RecordDecoder(view.store, self.image_root, None, image_size)

    def index(self) -> SourceIndex:
        index = index_store(self._open(), self.image_root, self.name)
        if self.subset is None:
            return index
        return SourceIndex(take_rows(index.table, self.view().rows), index.classes)

    def classes(self) -> list[str]:
        return list(self._open().classes)

    def fingerprint(self) -> str:
        key = str(self._open().header["key"])
        return subset_fingerprint(key, self.subset.num_images, self.subset.seed) if self.subset else key

    def image_folder(self) -> str:
        return self.image_root

    def boxes(self) -> Boxes:
        ids: list[str] = []
        boxes: list[list[float]] = []
        labels: list[int] = []
        for record in self.records():
            kept = [annotation for annotation in record["annotations"] if not annotation.get("iscrowd")]
            ids += [str(record["image_id"])] * len(kept)
            boxes += [annotation["bbox"] for annotation in kept]
            labels += [annotation["category_id"] for annotation in kept]
        return Boxes(
            [self.name] * len(ids),
            ids,
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(labels, np.int64),
        )

    def check(self) -> None:
        view = self.view()
        check_masks(view, self._decoder(view))

    def why_no_object(self) -> str:
        crowds = sum(a.get("iscrowd", 0) for record in self.records() for a in record["annotations"])
        return f"all {crowds} annotations are crowds (iscrowd 1)" if crowds else "there are no annotations"


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, which has no annotations.

    Attributes:
        name: of the dataset and of the source.
        folder: where the images are.
    """

    name: str
    folder: str

    def index(self) -> SourceIndex:
        return self._index

    @functools.cached_property
    def _index(self) -> SourceIndex:
        return index_folder(self.folder, self.name)

    def classes(self) -> list[str]:
        return []

    def fingerprint(self) -> str:
        return content_hash(["folder", self._index.hash])

    def image_folder(self) -> str:
        return self.folder

    def boxes(self) -> Boxes:
        return Boxes([], [], np.zeros((0, 4)), np.zeros(0, np.int64))

    def check(self) -> None:
        """There are no annotations."""

    def why_no_object(self) -> str:
        return "a folder has no annotations"
