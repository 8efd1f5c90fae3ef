"""Classification sets: files that are missing, cut short, or do not fit together, each told in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_user import cut
from classification_builds import refused
from classification_trees import (
    CARS,
    DOGS,
    TREES,
    car_columns,
    cells,
    struct,
)
from scipy.io import loadmat, savemat


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return spoil


def resave(name: str, **variables: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        kept = {k: v for k, v in loadmat(folder / name).items() if not k.startswith("__")}
        savemat(folder / name, {**kept, **variables})

    return spoil


def remove(pattern: str) -> Callable[[Path], Any]:
    return lambda folder: next(iter(sorted(folder.glob(pattern)))).unlink()


def truncate(name: str) -> Callable[[Path], Any]:
    return lambda folder: cut(folder / name)


SPOILED: dict[str, tuple[str, str, Callable[[Path], Any], str]] = {
    "dogs: no list": (
        *("stanford_dogs", "stanford_dogs_train", remove("train_list.mat")),
        r"Stanford Dogs: .*train_list\.mat is not there\. Expected below .*stanford_dogs/; Images/.* Download images\.tar",
    ),
    "dogs: truncated list": (
        *("stanford_dogs", "stanford_dogs_train", truncate("train_list.mat")),
        r"train_list\.mat: cut short: \d+ bytes are missing at least: download it again",
    ),
    "dogs: fewer labels": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", labels=np.uint8([[1], [2]]))),
        r"train_list\.mat: file_list has 6 entries, labels 2",
    ),
    "dogs: fewer annotations": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", annotation_list=cells(["a"]))),
        r"train_list\.mat: file_list has 6 entries, annotation_list 1",
    ),
    "dogs: labels of another list": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", labels=np.uint8([[1]] * 6))),
        r"label 1 is of 'n02085620-Chihuahua' and of 'n02085936-Maltese_dog'",
    ),
    "dogs: no image": (
        *("stanford_dogs", "stanford_dogs_train", remove("Images/*/*_10001.jpg")),
        r"stanford_dogs_train: 1 of 6 images are not there, first .*n02085620_10001\.jpg: unpack",
    ),
    "dogs: no annotation": (
        *("stanford_dogs", "stanford_dogs_train", remove("Annotation/*/*_10001")),
        r"cannot read the annotation .*n02085620_10001: No such file",
    ),
    "dogs: truncated annotation": (
        *("stanford_dogs", "stanford_dogs_train", truncate("Annotation/n02085620-Chihuahua/n02085620_10001")),
        r"n02085620_10001 is not complete XML",
    ),
    "dogs: a path that leaves the folder": (
        *("stanford_dogs", "stanford_dogs_test", lambda folder: _leave(folder)),
        r"image 'n02085620-Chihuahua/\.\./\.\./\.\./x\.jpg' lies outside the dataset's folder",
    ),
    "cars: no classes": (
        *("stanford_cars", "stanford_cars_train", remove("devkit/cars_meta.mat")),
        r"Stanford Cars: .*cars_meta\.mat is not there",
    ),
    "cars: the test list without classes": (
        *("stanford_cars", "stanford_cars_test", lambda folder: _without_classes(folder)),
        r"no field 'class' \(cars_test_annos\.mat has no classes: take cars_test_annos_withlabels\.mat\)",
    ),
    "cars: a class beyond the names": (
        *(
            "stanford_cars",
            "stanford_cars_train",
            resave("devkit/cars_meta.mat", class_names=cells(CARS[:2]).T),
        ),
        r"stanford_cars_train: image '00003\.jpg' is of class 3, expected one of the 2 classes 1 to 2",
    ),
    "cars: a corner that is no number": (
        *("stanford_cars", "stanford_cars_train", lambda folder: _text_corner(folder)),
        r"cars_train_annos\.mat: entry 1 of bbox_x1 must be a whole number, got 'a'",
    ),
    "pets: truncated list": (
        *("oxford_pets", "oxford_pets_test", edit("annotations/test.txt", lambda text: text[:-4] + "\n")),
        r"test\.txt, line 4: expected name class species breed, got 'Abyssinian_104 1'",
    ),
    "pets: not text": (
        *("oxford_pets", "oxford_pets_test"),
        lambda folder: (folder / "annotations/test.txt").write_bytes(b"\xff\xfe\x00"),
        r"test\.txt is not a text file in UTF-8",
    ),
    "pets: a class that is no number": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text.replace(" 1 1", " one 1")),
        ),
        r"test\.txt: the class of Abyssinian_\d+ must be a whole number, got 'one'",
    ),
    "pets: a class twice": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/list.txt", lambda text: text + "Sphynx_1 1 1 1\n"),
        ),
        r"list\.txt: class 1 is of 'Abyssinian' and of 'Sphynx'",
    ),
    "pets: a class that the list of all does not have": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text + "Sphynx_1 9 1 1\n"),
        ),
        r"image 'Sphynx_1\.jpg' is of class 9, expected one of the 3 classes 1 to 3",
    ),
    "pets: an image twice": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text + text.splitlines()[0]),
        ),
        r"1 ids of 'images' occur more than once, first 'Abyssinian_101'",
    ),
    "pets: no images": (
        *("oxford_pets", "oxford_pets_test", lambda folder: (folder / "images").rename(folder / "pictures")),
        r"Oxford-IIIT Pets: .*oxford-iiit-pet/images is not there\. Expected",
    ),
    "pets: an empty list": (
        *("oxford_pets", "oxford_pets_test", edit("annotations/test.txt", lambda text: "")),
        r"oxford_pets_test lists no images",
    ),
    "flowers: a number beyond the labels": (
        *("flowers_102", "flowers_102_test", resave("setid.mat", tstid=np.uint16([[3, 900]]))),
        r"setid\.mat names image 900, imagelabels\.mat has labels of 1 to 9: they do not belong together",
    ),
    "flowers: a class beyond the names": (
        *("flowers_102", "flowers_102_test", resave("imagelabels.mat", labels=np.uint8([[103] * 9]))),
        r"is of class 103, expected one of the 102 classes 1 to 102",
    ),
    "flowers: no set": (
        *("flowers_102", "flowers_102_test", lambda folder: savemat(folder / "setid.mat", {"trnid": [1]})),
        r"setid\.mat has no variable 'tstid'",
    ),
    "birds: a list that lacks an image": (
        *("cub_200", "cub_200_train", edit("image_class_labels.txt", lambda text: text.partition("\n")[2])),
        r"images\.txt lists 7 images, image_class_labels\.txt 6; image 1 is in one of them only",
    ),
    "birds: truncated boxes": (
        *(
            "cub_200",
            "cub_200_train",
            edit("bounding_boxes.txt", lambda text: text.strip().rpartition(" ")[0]),
        ),
        r"bounding_boxes\.txt, line 7: expected image_id x y width height, got '7 7\.0 2\.5 20\.0'",
    ),
    "birds: a box that is none": (
        *("cub_200", "cub_200_train", edit("bounding_boxes.txt", lambda text: text.replace("1.0", "nan", 1))),
        r"bounding_boxes\.txt: the box of image 1 must be four numbers, got 'nan 2\.5 20\.0 10\.5'",
    ),
    "birds: an unknown class": (
        *(
            "cub_200",
            "cub_200_train",
            edit("image_class_labels.txt", lambda text: text.replace("1 2\n", "1 77\n", 1)),
        ),
        r"is of class 77, expected one of the 2 classes 1 to 2",
    ),
    "birds: an image twice": (
        *("cub_200", "cub_200_train", edit("images.txt", lambda text: text + "1 again.jpg\n")),
        r"images\.txt: image_id 1 is listed twice",
    ),
    "birds: neither training nor test": (
        *(
            "cub_200",
            "cub_200_train",
            edit("train_test_split.txt", lambda text: text.replace("1 1", "1 2", 1)),
        ),
        r"train_test_split\.txt: image 1 must be 1 \(training\) or 0 \(test\), got '2'",
    ),
}


def _leave(folder: Path) -> None:
    lists = {"file_list": cells([f"{DOGS[1]}/../../../x.jpg"]), "labels": np.uint8([[1]])}
    savemat(folder / "test_list.mat", {**lists, "annotation_list": cells([f"{DOGS[1]}/n02085620_10001"])})


def _without_classes(folder: Path) -> None:
    columns = {k: v for k, v in car_columns(4).items() if k != "class"}
    rows = struct({**columns, "fname": [f"{i:05d}.jpg" for i in range(1, 5)]})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})


def _text_corner(folder: Path) -> None:
    columns = {**car_columns(6), "bbox_x1": ["a"] * 6, "fname": [f"{i:05d}.jpg" for i in range(1, 7)]}
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": struct(columns)})


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_with_a_dataset_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    key, name, spoil, message = SPOILED[case]
    spoil(TREES[key](tmp_path))
    line = refused(name, tmp_path)
    assert re.search(message, line), line
