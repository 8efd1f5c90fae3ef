"""What a public dataset is here: its splits, their files, and what the paper counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nds_plugin.store import StoreSpec


@dataclass(frozen=True)
class Split:
    """One split of a public dataset.

    Attributes:
        name: of the registered Detectron2 dataset and of the source, for example ``voc_2007_test``.
        split: "train", "val", "trainval", "test".
        spec: given DETECTRON2_DATASETS, how the store is made.
        image_root: given DETECTRON2_DATASETS, the folder that ``file_name`` is relative to.
        metadata: for Detectron2's MetadataCatalog.
        paper_images: images of this split in the paper's Table 3, None where it is not in there.
        images: images of this split as its provider publishes it, None where not known.
        note: why the two differ, where known.
    """

    name: str
    split: str
    spec: Callable[[Path], StoreSpec]
    image_root: Callable[[Path], Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    paper_images: int | None = None
    images: int | None = None
    note: str = ""


@dataclass(frozen=True)
class PublicDataset:
    """A dataset as its provider publishes it.

    Attributes:
        key: its name for ``tools/prepare_datasets.py --build``.
        title: its name in the paper's Table 3.
        task: "detection" or "classification".
        role: "source" or "target".
        num_classes: classes; paper_classes: as Table 3 prints them.
        page: the provider's page. licence: in the provider's terms.
        tree: the files that are expected, as text, relative to DETECTRON2_DATASETS.
        download: what to download, by the provider's file names.
        splits: its splits.
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
