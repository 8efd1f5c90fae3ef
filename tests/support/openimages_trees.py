"""OpenImages as its provider publishes it, tiny, and a plain reader of it that shares no code with the package's."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = {
    "/m/01g317": "Person",
    "/m/04yx4": "Man",
    "/m/0jbk": "Animal",
    "/m/01yrx": "Cat",
    "/m/0bt9lr": "Dog",
    "/m/0c9ph5": "Flower",
}
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": "/m/01g317", "Subcategory": [{"LabelName": "/m/04yx4"}]},
        {
            "LabelName": "/m/0jbk",
            "Subcategory": [
                {
                    "LabelName": "/m/068hy",
                    "Subcategory": [{"LabelName": "/m/01yrx"}, {"LabelName": "/m/0bt9lr"}],
                },
                {"LabelName": "/m/0bt9lr", "Part": [{"LabelName": "/m/0c9ph5"}]},
            ],
        },
        {"LabelName": "/m/0c9ph5"},
    ],
}
IMAGE_COLUMNS = (
    *("ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL", "Author"),
    *("Title", "OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation"),
)
CORNERS = ("XMin", "XMax", "YMin", "YMax")
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
CLICKS = tuple(f"XClick{i}{axis}" for axis in "XY" for i in (1, 2, 3, 4))
BOX_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", *CORNERS, *FLAGS)
MASK_COLUMNS = (
    *("MaskPath", "ImageID", "LabelName", "BoxID", *(f"Box{name}" for name in CORNERS)),
    *("PredictedIoU", "Clicks"),
)
BY = "https://creativecommons.org/licenses/by/2.0/"

Row = dict[str, Any]


@dataclass
class Tree:
    """The rows of the files and the pictures, to be changed before they are written.

    Attributes:
        sides: width and height of each image as stored; orientation: EXIF, where there is one.
        pixels: of each mask, by its file's name.
    """

    split: str = "train"
    images: list[Row] = field(default_factory=list)
    boxes: list[Row] = field(default_factory=list)
    masks: list[Row] = field(default_factory=list)
    sides: dict[str, tuple[int, int]] = field(default_factory=dict)
    orientation: dict[str, int] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    eight_bits: set[str] = field(default_factory=set)

    def add_image(
        self, image_id: str, size: tuple[int, int], orientation: int = 1, mode: str = "RGB", **row: Any
    ) -> None:
        self.sides[image_id], self.orientation[image_id], self.modes[image_id] = size, orientation, mode
        values = {
            "ImageID": image_id,
            "Subset": self.split,
            "OriginalURL": f"https://farm1.staticflickr.com/{image_id}_o.jpg",
            "OriginalLandingURL": f"https://www.flickr.com/photos/somebody/{image_id}",
            "License": BY,
            "Author": "Somebody",
            "Title": "A title",
            "OriginalSize": 1000,
            "OriginalMD5": base64.b64encode(hashlib.md5(image_id.encode()).digest()).decode(),
            "Rotation": "0.0",
        }
        self.images.append({**dict.fromkeys(IMAGE_COLUMNS, ""), **values, **row})

    def add_box(self, image_id: str, label: str, corners: tuple[float, ...], **flags: int) -> None:
        self.boxes.append(
            {
                **{"ImageID": image_id, "Source": "xclick", "LabelName": label, "Confidence": 1},
                **{name: f"{value:.6f}" for name, value in zip(CORNERS, corners)},
                **{**dict.fromkeys(FLAGS, 0), **flags},
                **dict.fromkeys(CLICKS, "0.500000"),
            }
        )

    def add_mask(
        self, image_id: str, label: str, corners: tuple[float, ...], pixels: npt.NDArray[np.bool_], **row: Any
    ) -> str:
        number = hashlib.sha256(f"{image_id}{len(self.masks)}".encode()).hexdigest()[:8]
        name = f"{image_id}_{label.strip('/').replace('/', '')}_{number}.png"
        self.masks.append(
            {
                **{"MaskPath": name, "ImageID": image_id, "LabelName": label, "BoxID": number},
                **{f"Box{key}": f"{value:.6f}" for key, value in zip(CORNERS, corners)},
                **{"PredictedIoU": "0.8", "Clicks": "0.1 0.2 1;0.3 0.4 0", **row},
            }
        )
        self.pixels[name] = pixels
        return name

    def write(self, root: Path, images: bool = True, zips: bool = True) -> Path:
        """Write all files; the folder of the dataset."""
        folder = root / "openimages"
        lists = folder / "annotations"
        lists.mkdir(parents=True, exist_ok=True)
        train = self.split == "train"
        (lists / "class-descriptions-boxable.csv").write_text(
            "".join(f"{k},{v}\n" for k, v in CLASSES.items())
        )
        (lists / "bbox_labels_600_hierarchy.json").write_text(json.dumps(HIERARCHY))
        name = f"{self.split}-images-{'boxable-' if train else ''}with-rotation.csv"
        _write(lists / name, IMAGE_COLUMNS, self.images)
        columns = (*BOX_COLUMNS, *CLICKS) if train else BOX_COLUMNS
        _write(lists / f"{'oidv6-' if train else ''}{self.split}-annotations-bbox.csv", columns, self.boxes)
        _write(lists / f"{self.split}-annotations-object-segmentation.csv", MASK_COLUMNS, self.masks)
        if images:
            self.write_images(folder / self.split)
        if self.masks:
            self.write_masks(folder / "masks", zips)
        return folder

    def write_images(self, folder: Path) -> None:
        """Pictures that are white in their first box and black elsewhere, as stored."""
        folder.mkdir(exist_ok=True)
        for image_id, (width, height) in self.sides.items():
            picture = np.zeros((height, width), np.uint8)
            for box in [box for box in self.boxes if box["ImageID"] == image_id][:1]:
                x0, x1, y0, y1 = (float(box[name]) for name in CORNERS)
                picture[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 255
            exif = Image.Exif()
            if self.orientation[image_id] != 1:
                exif[0x0112] = self.orientation[image_id]
            mode = self.modes[image_id]
            Image.fromarray(picture).convert("RGB").convert(mode).save(
                folder / f"{image_id}.jpg", quality=95, subsampling=0 if mode != "L" else -1, exif=exif
            )

    def write_masks(self, folder: Path, zips: bool = True) -> None:
        """One zip file for each first digit, or a folder for each."""
        folder.mkdir(exist_ok=True)
        for name, pixels in self.pixels.items():
            buffer = io.BytesIO()
            if name in self.eight_bits:
                Image.fromarray(pixels.astype(np.uint8) * 255).save(buffer, "PNG")
            else:
                Image.fromarray(pixels).save(buffer, "PNG")
            place = folder / f"{self.split}-masks-{name[0]}"
            if zips:
                with zipfile.ZipFile(f"{place}.zip", "a") as archive:
                    archive.writestr(name, buffer.getvalue())
            else:
                place.mkdir(exist_ok=True)
                (place / name).write_bytes(buffer.getvalue())


def _write(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def some_images(split: str = "train") -> Tree:
    """Images of every kind, with boxes and masks."""
    tree = Tree(split)
    tree.add_image("f1c2d3e4f5061728", (40, 30), Author='Ødegård, "Åse"', Title="Één titel,\nmet regeleinde")
    tree.add_image("0a1b2c3d4e5f6071", (60, 40), Author="山田 太郎", Rotation="270.0")
    tree.add_image("0a1b2c3d4e5f6072", (30, 50), mode="L", OriginalMD5="", Rotation="nan")
    tree.add_image("70aabbccddeeff00", (20, 20), mode="CMYK")
    tree.add_image("70aabbccddeeff01", (24, 16), orientation=6, Rotation="270.0")
    person, man, cat, flower = "/m/01g317", "/m/04yx4", "/m/01yrx", "/m/0c9ph5"
    tree.add_box("0a1b2c3d4e5f6071", man, (0.1, 0.5, 0.2, 0.8), IsOccluded=1, IsTruncated=1)
    tree.add_box("0a1b2c3d4e5f6071", person, (0.1, 0.5, 0.2, 0.8), IsInside=1, IsDepiction=-1)
    tree.add_box("0a1b2c3d4e5f6071", person, (0.0, 1.0, 0.5, 1.0), IsGroupOf=1)
    tree.add_box("0a1b2c3d4e5f6072", cat, (0.022673, 0.964201, 0.071038, 0.800547), IsDepiction=1)
    tree.add_box("70aabbccddeeff00", flower, (0.3, 0.3, 0.1, 0.9))  # no width
    tree.add_box("70aabbccddeeff01", cat, (0.25, 0.5, 0.25, 0.75), IsOccluded=-1)
    tree.add_box("f1c2d3e4f5061728", cat, (0.5, 1.0, 0.0, 0.5))
    rng = np.random.Generator(np.random.PCG64(0))
    tree.add_mask("0a1b2c3d4e5f6071", man, (0.1, 0.5, 0.2, 0.8), rng.random((60, 90)) < 0.4)
    tree.eight_bits.add(
        tree.add_mask("0a1b2c3d4e5f6071", person, (0.1, 0.5, 0.2, 0.8), rng.random((40, 60)) < 0.4)
    )
    tree.add_mask(
        "0a1b2c3d4e5f6072", cat, (0.022673, 0.964201, 0.071038, 0.800547), rng.random((50, 30)) < 0.4
    )
    inner = np.zeros((16, 24), dtype=bool)
    inner[4:12, 6:12] = True
    tree.add_mask("70aabbccddeeff01", cat, (0.25, 0.5, 0.25, 0.75), inner)
    return tree
