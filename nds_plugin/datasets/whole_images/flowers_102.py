"""Flowers 102: images by number, classes and splits in .mat files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.whole_images.mat import load_mat, whole_numbers
from nds_plugin.datasets.whole_images.split import Form, Listing, whole_image_split
from nds_plugin.datasets.whole_images.torchvision_sets import torchvision_rows
from nds_plugin.errors import NDSError

FOLDER = "flowers-102"
TREE = """\
flowers-102/
  jpg/image_00001.jpg, ...      8,189 jpg
  imagelabels.mat
  setid.mat"""
# Ours: the provider's sets, as torchvision and setid.mat call them.
_SETS = {"trainval": {"train": "trnid", "val": "valid"}, "test": {"test": "tstid"}}


def _set_ids(split: str, root: Path) -> list[int]:
    path = root / FOLDER / "setid.mat"
    found = load_mat(path, tuple(_SETS[split].values()))
    return [int(i) for name in found for i in whole_numbers(found[name], path, name)]


def _read(split: str, root: Path) -> Listing:
    folder = root / FOLDER
    ids, path = _set_ids(split, root), folder / "imagelabels.mat"
    labels = whole_numbers(load_mat(path, ("labels",))["labels"], path, "labels")
    outside = [i for i in ids if not 1 <= i <= len(labels)]
    if outside:
        raise NDSError(
            f"{folder}: setid.mat names image {outside[0]}, imagelabels.mat has labels of 1 to {len(labels)}: "
            "they do not belong together, download both again."
        )
    files: list[str] = []
    classes: list[int] = []
    names: list[str] = []
    for name in _SETS[split]:
        paths, of_set, names = torchvision_rows("Flowers102", root, name)
        files += [path.name for path in paths]
        classes += of_set
    return Listing(
        image_ids=np.array(ids, dtype=np.int64),
        file_names=files,
        labels=np.array(classes, dtype=np.int64) + 1,
        categories=list(enumerate(names, start=1)),
    )


def _count(split: str, root: Path) -> int:
    return len(_set_ids(split, root))


def _dataset() -> PublicDataset:
    return FLOWERS_102


def _split(split: str, images: int) -> Split:
    form = Form(
        files=(f"{FOLDER}/setid.mat", f"{FOLDER}/imagelabels.mat"),
        image_root=f"{FOLDER}/jpg",
        read=functools.partial(_read, split),
        count=functools.partial(_count, split),
        counted="setid.mat",
    )
    return whole_image_split(f"flowers_102_{split}", split, (form,), _dataset, images, images)


FLOWERS_102 = PublicDataset(
    key="flowers_102",
    title="Flowers 102",
    task="classification",
    role="target",
    num_classes=102,
    paper_classes="102",
    page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    licence="none stated",
    tree=TREE,
    download="102flowers.tgz, imagelabels.mat, setid.mat",
    splits=(_split("trainval", 2_040), _split("test", 6_149)),
    remarks=(
        "The paper's 2,040 training images are trnid and valid of setid.mat (1,020 each), its validation images are "
        "tstid. The provider gives classes by number; their names are those of a recent torchvision."
    ),
)
