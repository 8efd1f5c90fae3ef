"""Small trees of the five classification sets, in their providers' layout and naming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

SIZE = (48, 36)
DOGS = {1: "n02085620-Chihuahua", 2: "n02085936-Maltese_dog", 3: "n02088094-Afghan_hound"}
CARS = ["AM General Hummer SUV 2000", "Citroën 2CV Cabriolet 1975", "Ram C-V Cargo Van Minivan 2012"]
PETS = ["Abyssinian", "american_bulldog", "basset_hound"]
BIRDS = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross"}
_XML = """<annotation><folder>{folder}</folder><filename>%s</filename>
<source><database>ImageNet database</database></source>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segment>0</segment>
{objects}</annotation>"""
_OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
<difficult>0</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>
"""


def photo(path: Path, number: int = 0, mode: str = "RGB", size: tuple[int, int] = SIZE, **how: Any) -> None:
    """An image file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "CMYK": (4,)}.get(mode, (3,))
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(noise, mode=None if mode == "RGB" else mode).save(path, **{"format": "JPEG", **how})


def rotated(path: Path, number: int = 0) -> None:
    """A photograph that its EXIF orientation turns by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(path, number, exif=exif)


def cells(values: Sequence[Any]) -> np.ndarray:
    """A column of MATLAB cells."""
    column = np.empty((len(values), 1), dtype=object)
    for i, value in enumerate(values):
        column[i, 0] = value
    return column


def stanford_dogs(root: Path, train: int = 6, test: int = 4) -> Path:
    """Dogs: the last training image is grey, the last test image has no box; two boxes in the first."""
    folder = root / "stanford_dogs"
    number = 0
    for split, count in (("train", train), ("test", test)):
        names, labels = [], []
        for i in range(count):
            number += 1
            label = i % len(DOGS) + 1
            name = f"{DOGS[label]}/{DOGS[label].split('-')[0]}_{10_000 + number}"
            last = i == count - 1
            photo(folder / "Images" / f"{name}.jpg", number, "L" if last and split == "train" else "RGB")
            boxes = [] if last and split == "test" else [(1, 1, *SIZE)] * (number == 1) + [(5, 6, 20 + i, 30)]
            objects = "".join(_OBJECT.format(*box, name=DOGS[label].partition("-")[2]) for box in boxes)
            xml = folder / "Annotation" / name
            xml.parent.mkdir(parents=True, exist_ok=True)
            xml.write_text(
                _XML.format(folder=name[1:9], width=SIZE[0], height=SIZE[1], objects=objects),
                encoding="utf-8",
            )
            names.append(name)
            labels.append(label)
        lists = {
            "file_list": cells([f"{name}.jpg" for name in names]),
            "annotation_list": cells(names),
            "labels": np.array(labels, dtype=np.uint8).reshape(-1, 1),
        }
        savemat(folder / f"{split}_list.mat", lists, do_compression=True)
    return folder


def struct(columns: dict[str, Sequence[Any]]) -> np.ndarray:
    """A MATLAB struct array of shape (1, N)."""
    rows = list(zip(*columns.values()))
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in columns])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def car_columns(count: int) -> dict[str, Sequence[Any]]:
    """Corners and classes of some cars."""
    rows = np.arange(count, dtype=np.uint16)
    return {
        "bbox_x1": list(rows + 1),
        "bbox_y1": list(rows + 2),
        "bbox_x2": list(rows + 21),
        "bbox_y2": list(rows + 12),
        "class": [np.uint8(i % len(CARS) + 1) for i in range(count)],
    }


def stanford_cars(root: Path, train: int = 6, test: int = 4) -> Path:
    """Cars as cars_train and cars_test; the first training image is in CMYK."""
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    lists = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for split, count in (("train", train), ("test", test)):
        names = [f"{i:05d}.jpg" for i in range(1, count + 1)]
        for i, name in enumerate(names):
            mode = "CMYK" if split == "train" and i == 0 else "RGB"
            photo(folder / f"cars_{split}" / name, i, mode)
        savemat(folder / lists[split], {"annotations": struct({**car_columns(count), "fname": names})})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cells(CARS).T})
    return folder


def stanford_cars_whole(root: Path, train: int = 6, test: int = 4) -> Path:
    """The same cars as car_ims and cars_annos.mat."""
    folder = root / "stanford_cars"
    names = [f"car_ims/{i:06d}.jpg" for i in range(1, train + test + 1)]
    for i, name in enumerate(names):
        photo(folder / name, i)
    parts = [car_columns(train), car_columns(test)]
    columns = {
        "relative_im_path": names,
        **{key: [*parts[0][key], *parts[1][key]] for key in parts[0]},
        "test": [np.uint8(i >= train) for i in range(train + test)],
    }
    annotations = {"annotations": struct(columns), "class_names": cells(CARS).T}
    savemat(folder / "cars_annos.mat", annotations)
    return folder


def oxford_pets(root: Path, trainval: int = 6, test: int = 4) -> Path:
    """Pets: a photograph turned by EXIF, a GIF that is called jpg (as some are), images in no list."""
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for split, count in (("trainval", trainval), ("test", test)):
        for i in range(count):
            label = i % len(PETS) + 1
            name = f"{PETS[label - 1]}_{100 * (split == 'test') + i + 1}"
            path = folder / "images" / f"{name}.jpg"
            if split == "test" and i == 0:
                rotated(path)
            else:
                photo(path, i, **({"format": "GIF"} if i == 1 else {}))
            species = 1 if PETS[label - 1][0].isupper() else 2
            lines[split].append(f"{name} {label} {species} 1")
    photo(folder / "images" / "Abyssinian_999.jpg")
    (folder / "images" / "Abyssinian_101.mat").write_bytes(b"")
    head = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    contents = {**lines, "list": [*head, *lines["trainval"], *lines["test"]]}
    for name, content in contents.items():
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(content) + "\n", encoding="utf-8")
    return folder


def flowers_102(root: Path, train: int = 3, val: int = 2, test: int = 4) -> Path:
    """Flowers: the sets' numbers are neither in order nor next to each other, as in the published file."""
    if not hasattr(torchvision.datasets.Flowers102, "classes"):
        pytest.skip("this torchvision does not have the names of the flowers")
    folder = root / "flowers-102"
    total = train + val + test
    order = np.random.default_rng(0).permutation(total) + 1
    for number in order.tolist():
        photo(folder / "jpg" / f"image_{number:05d}.jpg", number)
    labels = np.array([(7 * i) % 102 + 1 for i in range(total)], dtype=np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels.reshape(1, -1)}, do_compression=True)
    ids = order.astype(np.uint16).reshape(1, -1)
    sets = {"trnid": ids[:, :train], "valid": ids[:, train : train + val], "tstid": ids[:, train + val :]}
    savemat(folder / "setid.mat", sets, do_compression=True)
    return folder


def cub_200(root: Path, train: int = 4, test: int = 3) -> Path:
    """Birds: numbers of images from 1, one file name in unicode, boxes with decimals."""
    folder = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {key: [] for key in ("images", "labels", "splits", "boxes")}
    for number in range(1, train + test + 1):
        label = number % len(BIRDS) + 1
        species = "Eisvögel" if number == 2 else BIRDS[label].partition(".")[2]
        name = f"{BIRDS[label]}/{species}_{number:04d}_{700_000 + number}.jpg"
        photo(folder / "images" / name, number)
        lists["images"].append(f"{number} {name}")
        lists["labels"].append(f"{number} {label}")
        lists["splits"].append(f"{number} {int(number <= train)}")
        lists["boxes"].append(f"{number} {number}.0 2.5 20.0 10.5")
    names = {"labels": "image_class_labels", "splits": "train_test_split", "boxes": "bounding_boxes"}
    for key, content in lists.items():
        (folder / f"{names.get(key, key)}.txt").write_text("\n".join(content) + "\n", encoding="utf-8")
    classes = "\n".join(f"{key} {name}" for key, name in BIRDS.items())
    (folder / "classes.txt").write_text(classes + "\n", encoding="utf-8")
    return folder


TREES = {
    "stanford_dogs": stanford_dogs,
    "stanford_cars": stanford_cars,
    "oxford_pets": oxford_pets,
    "flowers_102": flowers_102,
    "cub_200": cub_200,
}
