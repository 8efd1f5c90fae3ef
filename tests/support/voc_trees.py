"""VOC2007 in small, in the provider's layout and naming, that the tests of VOC write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

Corners = tuple[float, float, float, float]


@dataclass
class Thing:
    """An object as the XML has it: corners are pixel numbers from 1, both inside."""

    name: str
    corners: Corners
    difficult: int = 0
    truncated: int = 0
    part: Corners | None = None


@dataclass
class Picture:
    """One image and its annotation; ``size`` is width and height as the XML has them."""

    image_id: str
    things: Sequence[Thing] = ()
    size: tuple[int, int] = (60, 40)
    mode: str = "RGB"
    orientation: int = 1
    mask: str = ""  # "yes": palette images of the objects
    owner: tuple[str, str] = field(default=("somebody", "Some Body"))


def pictures() -> list[Picture]:
    """What may occur in VOC: difficult, truncated, parts, no object, no area, grey, CMYK, turned, unicode."""
    return [
        Picture(
            "000005",
            [
                Thing("chair", (3, 4, 30, 20)),
                Thing("chair", (35, 5, 60, 40), difficult=1),
                Thing("person", (10, 22, 30, 38), truncated=1, part=(12, 23, 16, 27)),
            ],
            mask="yes",
        ),
        Picture("000007", [Thing("car", (1, 1, 60, 40))], mask="yes", owner=("flick", "?")),
        Picture("000009"),  # no object at all
        Picture("000012", [Thing("dog", (5, 5, 4, 20)), Thing("cat", (5, 5, 5, 5))]),  # no area; one pixel
        Picture("000016", [Thing("bicycle", (2, 3, 20, 30))], mode="L"),
        Picture("000017", [Thing("horse", (2, 3, 20, 30))], mode="CMYK"),
        Picture("000019", [Thing("cat", (2, 3, 20, 30))], orientation=6),
        Picture("größe_猫", [Thing("tvmonitor", (2, 3, 20, 30), difficult=1)]),
    ]


def write_voc(folder: Path, content: Sequence[Picture], **splits: Sequence[str]) -> Path:
    """Write ``folder`` (VOC2007) with all pictures and the lists ``ImageSets/Main/SPLIT.txt``.

    Without splits all pictures are in "test" and, in falling order, in "trainval".
    """
    ids = [picture.image_id for picture in content]
    for name, chosen in (splits or {"test": ids, "trainval": ids[::-1]}).items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{i}\n" for i in chosen), encoding="utf-8")
    for picture in content:
        path = folder / "Annotations" / f"{picture.image_id}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(xml(picture), encoding="utf-8")
        _write_jpeg(folder / "JPEGImages" / f"{picture.image_id}.jpg", picture)
        if picture.mask:
            write_masks(folder, picture)
    return folder


def xml(picture: Picture) -> str:
    """The annotation file."""
    flickr_id, name = picture.owner
    objects = "".join(map(_object, picture.things))
    return f"""<annotation>
\t<folder>VOC2007</folder>
\t<filename>{escape(picture.image_id)}.jpg</filename>
\t<source>
\t\t<database>The VOC2007 Database</database>
\t\t<annotation>PASCAL VOC2007</annotation>
\t\t<image>flickr</image>
\t\t<flickrid>325991873</flickrid>
\t</source>
\t<owner>
\t\t<flickrid>{escape(flickr_id)}</flickrid>
\t\t<name>{escape(name)}</name>
\t</owner>
\t<size>
\t\t<width>{picture.size[0]}</width>
\t\t<height>{picture.size[1]}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>{int(bool(picture.mask))}</segmented>
{objects}</annotation>
"""


def _object(thing: Thing) -> str:
    part = ""
    if thing.part:
        part = f"\t\t<part>\n\t\t\t<name>head</name>\n{_box(thing.part)}\t\t</part>\n"
    return (
        f"\t<object>\n\t\t<name>{thing.name}</name>\n\t\t<pose>Left</pose>\n"
        f"\t\t<truncated>{thing.truncated}</truncated>\n\t\t<difficult>{thing.difficult}</difficult>\n"
        f"{_box(thing.corners)}{part}\t</object>\n"
    )


def _box(corners: Corners) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"\t\t\t<{name}>{value}</{name}>\n" for name, value in zip(names, corners))
    return f"\t\t<bndbox>\n{inner}\t\t</bndbox>\n"


def _write_jpeg(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = picture.size if picture.orientation < 5 else picture.size[::-1]
    pixels = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(picture.mode)
    exif = Image.Exif()
    exif[0x0112] = picture.orientation
    image.save(path, exif=exif)


def write_masks(folder: Path, picture: Picture, order: Sequence[int] | None = None) -> None:
    """Palette images: the inside of each box, with a border of two pixels of void (255).

    Args:
        order: value of the mask of each object; by default 1, 2, ..., as VOC has it.
    """
    from nds_plugin.datasets.voc.split import CLASSES

    width, height = picture.size
    objects, classes = (np.zeros((height, width), np.uint8) for _ in range(2))
    for k, thing in zip(order or range(1, len(picture.things) + 1), picture.things):
        x0, y0, x1, y1 = (int(v) for v in thing.corners)
        for image, value in ((objects, k), (classes, CLASSES.index(thing.name) + 1)):
            image[y0 - 1 : y1, x0 - 1 : x1] = 255
            image[y0 + 1 : y1 - 2, x0 + 1 : x1 - 2] = value
    for name, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        path = folder / name / f"{picture.image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(values, mode=None).convert("L")
        image.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
        image.save(path)
