"""What a public dataset is here: its splits, their files, and what the paper counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.store import StoreSpec
from nds_plugin.store.opening import STORES, store_place

ROOT = "DETECTRON2_DATASETS"  # the environment variable, as everywhere in Detectron2
ANNOTATED = "_annotated"  # ends the names of registered datasets without the images that have no instance


@dataclass(frozen=True)
class Split:
    """One split of a public dataset.

    Attributes:
        name: of the registered Detectron2 dataset and of the source, for example ``voc_2007_test``.
        split: "train", "val", "trainval", "test".
        spec: given DETECTRON2_DATASETS, how the store is made.
        image_root: given DETECTRON2_DATASETS, the folder that ``file_name`` is relative to.
        metadata: for Detectron2's MetadataCatalog; "like" names a dataset of Detectron2's own whose
            classes, colours and map of ids are taken.
        paper_images: images of this split in the paper's Table 3, None where it is not in there.
        images: images of this split as its provider publishes it, None where not known.
        note: why the two differ, where known.
        quick_count: given DETECTRON2_DATASETS, the images as counted without a store, in moments, and
            what was counted ("lines of ..."); raises NDSError or OSError where that cannot be read.
            None where only a store can tell.
    """

    name: str
    split: str
    spec: Callable[[Path], StoreSpec]
    image_root: Callable[[Path], Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    paper_images: int | None = None
    images: int | None = None
    note: str = ""
    quick_count: Callable[[Path], tuple[int, str]] | None = None


@dataclass(frozen=True)
class PublicDataset:
    """A dataset as its provider publishes it.

    Attributes:
        key: its name for ``nds datasets --build``.
        title: its name in the paper's Table 3.
        task: "detection" or "classification".
        role: "source" or "target".
        num_classes: classes; paper_classes: as Table 3 prints them.
        page: the provider's page. licence: in the provider's terms.
        tree: the files that are expected, as text, relative to DETECTRON2_DATASETS.
        download: what to download, by the provider's file names.
        splits: its splits.
        remarks: what is read of it and what is not, and further differences from the paper; sentences.
    """

    key: str
    title: str
    task: str
    role: str
    num_classes: int
    paper_classes: str
    page: str
    licence: str
    tree: str
    download: str
    splits: Sequence[Split]
    remarks: str = ""


def store_path(root: Path, name: str) -> Path:
    """Where the store of a split lies, given DETECTRON2_DATASETS; see :func:`store_place`."""
    return store_place(root / STORES / f"{name}.arrow")


def datasets_root() -> Path:
    """``$DETECTRON2_DATASETS``, by default "datasets", as everywhere in Detectron2."""
    return Path(os.path.expanduser(os.getenv(ROOT, "datasets")))


def selections_folder() -> Path:
    """The folder whose selections are registered by name; see :mod:`nds_plugin.d2.data.drawn_dataset`."""
    return datasets_root() / "nds_selections"


class MissingFilesError(NDSError):
    """Files of a dataset are not there.

    Attributes:
        missing: the first of them.
    """

    code = "missing-files"

    def __init__(self, message: str, missing: Path) -> None:
        super().__init__(message, missing)
        self.missing = missing

    def __str__(self) -> str:
        return str(self.args[0])


def missing_tree(dataset: PublicDataset, root: Path, missing: Path) -> MissingFilesError:
    """The error for a file or folder of a dataset that is not there: shows the tree that is expected."""
    tree = "; ".join(" ".join(line.split()) for line in dataset.tree.splitlines())
    return MissingFilesError(
        f"{dataset.title}: {missing} is not there. Expected below {root.absolute()} (DETECTRON2_DATASETS): {tree}. "
        f"Download {dataset.download} from {dataset.page}; nds datasets --check shows the tree.",
        missing,
    )
