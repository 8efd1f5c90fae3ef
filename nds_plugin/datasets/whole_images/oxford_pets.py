"""Oxford-IIIT Pets: cats and dogs, listed in text files. The boxes of heads and the trimaps are not read."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.whole_images.split import Form, Listing, table_of, whole_image_split, whole_number
from nds_plugin.datasets.whole_images.torchvision_sets import torchvision_rows
from nds_plugin.errors import NDSError

FOLDER = "oxford-iiit-pet"
TREE = """\
oxford-iiit-pet/
  images/Abyssinian_1.jpg, ...      7,390 jpg, of which the lists name 7,349
  annotations/
    list.txt
    trainval.txt
    test.txt"""
_LINE = "name class species breed"


def _rows(root: Path, name: str) -> list[list[str]]:
    return table_of(root / FOLDER / "annotations" / name, 4, _LINE)


def _classes(root: Path) -> dict[int, str]:
    """Names of the classes by their ids: "Abyssinian_100 1 1 1" is of class 1, Abyssinian.

    ``list.txt`` lists all images, so that the classes do not depend on the split.
    """
    path = root / FOLDER / "annotations" / "list.txt"
    classes: dict[int, str] = {}
    for name, number, _, _ in _rows(root, "list.txt"):
        key, breed = whole_number(number, path, f"the class of {name}"), name.rpartition("_")[0]
        if classes.setdefault(key, breed) != breed:
            raise NDSError(f"{path}: class {key} is of {classes[key]!r} and of {breed!r}.")
    return {key: breed.replace("_", " ") for key, breed in classes.items()}


def _read(split: str, root: Path) -> Listing:
    path = root / FOLDER / "annotations" / f"{split}.txt"
    for name, number, _, _ in _rows(root, path.name):
        whole_number(number, path, f"the class of {name}")
    paths, labels, _ = torchvision_rows("OxfordIIITPet", root, split)
    return Listing(
        image_ids=[path.stem for path in paths],
        file_names=[path.name for path in paths],
        labels=np.array(labels, dtype=np.int64) + 1,
        categories=sorted(_classes(root).items()),
    )


def _count(split: str, root: Path) -> int:
    return len(_rows(root, f"{split}.txt"))


def _dataset() -> PublicDataset:
    return OXFORD_PETS


def _split(split: str, images: int, paper_images: int, note: str = "") -> Split:
    lists = f"{FOLDER}/annotations"
    form = Form(
        files=(f"{lists}/{split}.txt", f"{lists}/list.txt"),
        image_root=f"{FOLDER}/images",
        read=functools.partial(_read, split),
        count=functools.partial(_count, split),
        counted=f"lines of {split}.txt",
    )
    name = f"oxford_pets_{split}"
    return whole_image_split(name, split, (form,), _dataset, images, paper_images, note)


OXFORD_PETS = PublicDataset(
    key="oxford_pets",
    title="Oxford-IIIT Pets",
    task="classification",
    role="target",
    num_classes=37,
    paper_classes="37",
    page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0",
    tree=TREE,
    download="images.tar.gz, annotations.tar.gz",
    splits=(
        _split("trainval", 3_680, 3_680),
        _split(
            *("test", 3_669, 3_369),
            "the published list has 3,669; the paper's figure looks like a misprint",
        ),
    ),
    remarks=(
        "The paper's validation images are the test images. The boxes of heads, which the training images alone "
        "have, and the trimaps are not read. Some files called jpg hold PNG or GIF images; they are read as "
        "what they are."
    ),
)
