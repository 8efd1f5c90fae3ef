"""Stanford Dogs: lists in .mat files, boxes in files of VOC's form, folders by WordNet id and breed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.voc.xml import read_voc_xml
from nds_plugin.datasets.whole_images.mat import load_mat, texts, whole_numbers
from nds_plugin.datasets.whole_images.split import Box, Form, Listing, whole_image_split
from nds_plugin.errors import NDSError

FOLDER = "stanford_dogs"
SPLITS = ("train", "test")
TREE = """\
stanford_dogs/
  Images/n02085620-Chihuahua/*.jpg, ...   20,580 jpg in 120 folders
  Annotation/n02085620-Chihuahua/*, ...   20,580 files of XML
  train_list.mat
  test_list.mat"""


def _read(split: str, root: Path) -> Listing:
    names, labels, path = _list(split, root)
    annotations = texts(load_mat(path, ("annotation_list",))["annotation_list"], path, "annotation_list")
    if len(annotations) != len(names):
        raise NDSError(
            f"{path}: file_list has {len(names)} entries, annotation_list {len(annotations)}: download it again."
        )
    return Listing(
        image_ids=[Path(name).stem for name in names],
        file_names=names,
        labels=labels,
        categories=_breeds(root),
        boxes=functools.partial(_boxes, root / FOLDER / "Annotation", annotations),
    )


def _list(split: str, root: Path) -> tuple[list[str], npt.NDArray[np.int64], Path]:
    """Names of the images and their classes, from 1."""
    path = root / FOLDER / f"{split}_list.mat"
    found = load_mat(path, ("file_list", "labels"))
    names, labels = (
        texts(found["file_list"], path, "file_list"),
        whole_numbers(found["labels"], path, "labels"),
    )
    if len(names) != len(labels):
        raise NDSError(
            f"{path}: file_list has {len(names)} entries, labels {len(labels)}: download it again."
        )
    return names, labels, path


def _breeds(root: Path) -> list[tuple[int, str]]:
    """The breeds by their folders, of both splits: "n02085936-Maltese_dog" is "Maltese dog"."""
    breeds: dict[int, str] = {}
    for split in SPLITS:
        names, labels, path = _list(split, root)
        for name, label in zip(names, labels.tolist()):
            folder, _, _ = name.partition("/")
            if breeds.setdefault(label, folder) != folder:
                raise NDSError(
                    f"{path}: label {label} is of {breeds[label]!r} and of {folder!r}: file_list and labels do "
                    "not belong together."
                )
    return [(label, folder.partition("-")[2].replace("_", " ") or folder) for label, folder in breeds.items()]


def _boxes(folder: Path, annotations: Sequence[str], position: int) -> list[Box]:
    return [item.bbox for item in read_voc_xml(folder / annotations[position]).objects]


def _count(split: str, root: Path) -> int:
    return len(load_mat(root / FOLDER / f"{split}_list.mat", ("labels",))["labels"])


def _dataset() -> PublicDataset:
    return STANFORD_DOGS


def _split(split: str, images: int) -> Split:
    form = Form(
        files=tuple(f"{FOLDER}/{name}_list.mat" for name in SPLITS),  # both: the breeds
        image_root=f"{FOLDER}/Images",
        read=functools.partial(_read, split),
        count=functools.partial(_count, split),
        counted=f"{split}_list.mat",
        folders=(f"{FOLDER}/Annotation",),
    )
    return whole_image_split(f"stanford_dogs_{split}", split, (form,), _dataset, images, images)


STANFORD_DOGS = PublicDataset(
    key="stanford_dogs",
    title="Stanford Dogs",
    task="classification",
    role="target",
    num_classes=120,
    paper_classes="120",
    page="http://vision.stanford.edu/aditya86/ImageNetDogs/",
    licence="none stated; the images are ImageNet's, for non-commercial research and education",
    tree=TREE,
    download="images.tar, annotation.tar, lists.tar",
    splits=(_split("train", 12_000), _split("test", 8_580)),
    remarks=(
        "The paper's validation images are the test images of the lists. Boxes are read from the files below "
        "Annotation. The images and boxes are from ImageNet, so a network trained on ImageNet has already "
        "seen them."
    ),
)
