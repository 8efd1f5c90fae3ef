"""Stanford Cars, in both of its published forms: cars_train and cars_test, or car_ims as a whole."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.public import PublicDataset, Split
from nds_plugin.datasets.whole_images.mat import load_mat, texts, whole_numbers
from nds_plugin.datasets.whole_images.split import Box, Form, Listing, whole_image_split
from nds_plugin.datasets.whole_images.torchvision_sets import torchvision_rows
from nds_plugin.errors import NDSError

FOLDER = "stanford_cars"
TREE = """\
stanford_cars/
  cars_train/00001.jpg, ...      8,144 jpg
  cars_test/00001.jpg, ...       8,041 jpg
  devkit/
    cars_meta.mat
    cars_train_annos.mat
  cars_test_annos_withlabels.mat
or, instead of these,
stanford_cars/
  car_ims/000001.jpg, ...        16,185 jpg
  cars_annos.mat"""
_LISTS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
_META = "devkit/cars_meta.mat"
_WHOLE = "cars_annos.mat"
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def _annotations(path: Path, fields: tuple[str, ...]) -> npt.NDArray[Any]:
    """The struct array of a list, with all the fields that it must have."""
    found = load_mat(path, ("annotations",))["annotations"]
    lacks = [name for name in fields if name not in (found.dtype.names or ())]
    if lacks:
        hint = " (cars_test_annos.mat has no classes: take cars_test_annos_withlabels.mat)"
        raise NDSError(
            f"{path}: its annotations have no field {', '.join(map(repr, lacks))}"
            f"{hint if lacks == ['class'] else ''}: is it another file?"
        )
    return found


def _corners(annotations: npt.NDArray[Any], path: Path) -> npt.NDArray[np.int64]:
    return np.stack([whole_numbers(annotations[name], path, name) for name in _CORNERS], axis=1)


def _box(corners: npt.NDArray[np.int64], position: int) -> list[Box]:
    """Corners are numbers of pixels counted from 1, both inside the box, as MATLAB and VOC count."""
    x0, y0, x1, y1 = corners[position].tolist()
    return [(x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)]


def _read(split: str, root: Path) -> Listing:
    folder = root / FOLDER
    path = folder / _LISTS[split]
    corners = _corners(_annotations(path, (*_CORNERS, "class", "fname")), path)
    load_mat(folder / _META, ("class_names",))
    paths, labels, classes = torchvision_rows("StanfordCars", root, split)
    return Listing(
        image_ids=[path.stem for path in paths],
        file_names=[path.relative_to(folder / f"cars_{split}").as_posix() for path in paths],
        labels=np.array(labels, dtype=np.int64) + 1,
        categories=list(enumerate(map(str, classes), start=1)),
        boxes=functools.partial(_box, corners),
    )


def _read_whole(split: str, root: Path) -> Listing:
    path = root / FOLDER / _WHOLE
    annotations = _part(split, path, (*_CORNERS, "class", "relative_im_path"))
    names = texts(annotations["relative_im_path"], path, "relative_im_path")
    classes = texts(load_mat(path, ("class_names",))["class_names"], path, "class_names")
    return Listing(
        image_ids=[Path(name).stem for name in names],
        file_names=names,
        labels=whole_numbers(annotations["class"], path, "class"),
        categories=list(enumerate(classes, start=1)),
        boxes=functools.partial(_box, _corners(annotations, path)),
    )


def _part(split: str, path: Path, fields: tuple[str, ...]) -> npt.NDArray[Any]:
    annotations = _annotations(path, (*fields, "test"))
    return annotations[whole_numbers(annotations["test"], path, "test") == (split == "test")]


def _count(split: str, root: Path) -> int:
    return len(_annotations(root / FOLDER / _LISTS[split], ()))


def _count_whole(split: str, root: Path) -> int:
    return len(_part(split, root / FOLDER / _WHOLE, ()))


def _dataset() -> PublicDataset:
    return STANFORD_CARS


def _split(split: str, images: int) -> Split:
    apart = Form(
        files=(f"{FOLDER}/{_LISTS[split]}", f"{FOLDER}/{_META}"),
        image_root=f"{FOLDER}/cars_{split}",
        read=functools.partial(_read, split),
        count=functools.partial(_count, split),
        counted=Path(_LISTS[split]).name,
    )
    whole = Form(
        files=(f"{FOLDER}/{_WHOLE}",),
        image_root=FOLDER,
        read=functools.partial(_read_whole, split),
        count=functools.partial(_count_whole, split),
        counted=_WHOLE,
    )
    return whole_image_split(f"stanford_cars_{split}", split, (apart, whole), _dataset, images, images)


STANFORD_CARS = PublicDataset(
    key="stanford_cars",
    title="Stanford Cars",
    task="classification",
    role="target",
    num_classes=196,
    paper_classes="196",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    licence="for non-commercial research; none is stated in the archives",
    tree=TREE,
    download="cars_train.tgz, cars_test.tgz, car_devkit.tgz, cars_test_annos_withlabels.mat (or car_ims.tgz, cars_annos.mat)",
    splits=(_split("train", 8_144), _split("test", 8_041)),
    remarks=(
        "The paper's validation images are the test images. Boxes are read. The provider's archives are no "
        "longer on its page, but copies of both forms can be found elsewhere, and either is read. "
        "cars_test_annos.mat of the devkit has no classes; cars_test_annos_withlabels.mat was published "
        "separately."
    ),
)
