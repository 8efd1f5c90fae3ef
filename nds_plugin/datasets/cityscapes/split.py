"""Cityscapes' fine annotations over its eight classes with instances.

Two forms of the same objects:

* run lengths of the ``instanceIds`` images (the default): exact to the pixel, holding what occludes
  what, as the evaluation needs them; train with ``INPUT.MASK_FORMAT: bitmask``. A value of
  ``label id * 1000 + n`` is the n-th instance of a class; the bare label id is a group whose members
  nobody told apart, and becomes one crowd.
* polygons of ``*_polygons.json`` (:mod:`nds_plugin.datasets.cityscapes.polygons`), for training with
  ``INPUT.MASK_FORMAT: polygon`` beside sources of polygons; each group is a crowd of its own.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nds_plugin.datasets.label_images import check_size, read_label_image, regions
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.errors import NDSError
from nds_plugin.extras import needed_for
from nds_plugin.images.reading import ImageError, read_header
from nds_plugin.store import Annotations, Images, Inputs, Ragged, StoreSpec, StoreWriter
from nds_plugin.store.parts import Unit, map_parts, unit_key

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
IMAGE_SUFFIX = "_leftImg8bit.png"
SUFFIXES = {"rle": "_gtFine_instanceIds.png", "polygon": "_gtFine_polygons.json"}
TREE = """\
cityscapes/
  leftImg8bit/{train,val}/CITY/  2,975 and 500 *_leftImg8bit.png
  gtFine/{train,val}/CITY/       *_gtFine_instanceIds.png, *_gtFine_polygons.json"""
_PER_CLASS = 1000
_FORMAT = 2
_CHUNK = 16  # images of a unit of work: one or two seconds
_OBJECT = pa.struct(
    {
        "category": pa.int64(),
        "iscrowd": pa.int8(),
        "area": pa.float64(),
        "bbox": pa.list_(pa.float64()),
        "rle": pa.binary(),
        "polygons": pa.list_(pa.list_(pa.float64())),
    }
)
_SCHEMA = pa.schema({"width": pa.int32(), "height": pa.int32(), "objects": pa.list_(_OBJECT)})


@dataclass(frozen=True)
class Frame:
    """One annotated image: its id (the file name's stem), its file, and that of its annotation."""

    image_id: str
    image: str
    annotation: str


def spec(split: str, masks: str, root: Path) -> StoreSpec:
    """How the store of a split is made.

    Args:
        split: "train" or "val".
        masks: "rle" or "polygon".
        root: DETECTRON2_DATASETS.
    """
    name = _name(split, masks)
    return StoreSpec(
        name=name,
        path=store_path(root, name),
        inputs=functools.partial(_inputs, split, masks, root),
        read=functools.partial(_read, split, masks, root),
    )


def find_frames(root: Path, split: str, masks: str = "rle") -> list[Frame]:
    """The images of a split that have annotations, sorted by city and name.

    Raises:
        NDSError: the tree is not there, or an image and its annotation are not both there.
    """
    folders = [root / "cityscapes" / part / split for part in ("leftImg8bit", "gtFine")]
    images, labels = (_files(f, s) for f, s in zip(folders, (IMAGE_SUFFIX, SUFFIXES[masks])))
    for found, folder, suffix in zip((images, labels), folders, (IMAGE_SUFFIX, SUFFIXES[masks])):
        if not found:
            raise missing_tree(CITYSCAPES, root, folder / "CITY" / f"*{suffix}")
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        have = images.get(alone[0]) or labels[alone[0]]
        raise NDSError(
            f"Cityscapes {split}: {len(alone)} images and annotations lack their counterpart, first {have}: "
            "unpack both archives completely."
        )
    return [Frame(os.path.basename(stem), images[stem], labels[stem]) for stem in sorted(images)]


def label_ids() -> tuple[int, ...]:
    """Cityscapes' label id of each class.

    Raises:
        NDSError: cityscapesscripts is not installed.
    """
    with needed_for("reading Cityscapes"):
        from cityscapesscripts.helpers.labels import name2label
    return tuple(name2label[name].id for name in CLASSES)


def _files(folder: Path, suffix: str) -> dict[str, str]:
    """``CITY/STEM`` -> path of the files that end in ``suffix``."""
    found = folder.glob(f"*/*{suffix}") if folder.is_dir() else iter(())
    return {f"{path.parent.name}/{path.name[: -len(suffix)]}": str(path) for path in found}


def _inputs(split: str, masks: str, root: Path) -> Inputs:
    frames = find_frames(root, split, masks)
    tree = [path for frame in frames for path in (frame.image, frame.annotation)]
    return Inputs(tree=tree, settings=["cityscapes", masks, list(CLASSES), _FORMAT], root=root)


def _read(
    split: str, masks: str, root: Path, writer: StoreWriter, parts: Path, target: Path
) -> list[tuple[int, str]]:
    del target
    frames = find_frames(root, split, masks)
    convert = {"rle": _convert_labels, "polygon": _convert_polygons}[masks]
    label_ids()  # said here, in one line, if the package is missing
    chunks = [frames[i : i + _CHUNK] for i in range(0, len(frames), _CHUNK)]
    units = [Unit(_key(chunk, masks), (chunk, convert), len(chunk)) for chunk in chunks]
    image_root = _image_root(split, root)
    for chunk, table in zip(chunks, map_parts(units, _convert, parts, writer.where, len(frames))):
        _add(writer, chunk, table.to_pylist(), image_root)
    return list(enumerate(CLASSES, start=1))


def _key(frames: Sequence[Frame], masks: str) -> str:
    rows: list[Any] = [_FORMAT, masks, CLASSES]
    for path in itertools.chain.from_iterable((frame.image, frame.annotation) for frame in frames):
        status = os.stat(path)
        rows.append([path, status.st_size, status.st_mtime_ns])
    return unit_key(repr(rows))


def _convert(argument: tuple[Sequence[Frame], Any]) -> pa.Table:
    """The rows of a unit, one per image; runs in another process."""
    frames, convert = argument
    rows = []
    for frame in frames:
        try:
            width, height = read_header(frame.image).shown
        except ImageError as error:
            raise NDSError(f"Cityscapes: {error} Get it again.") from None
        rows.append({"width": width, "height": height, "objects": convert(frame, (height, width))})
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _convert_labels(frame: Frame, size: tuple[int, int]) -> list[dict[str, Any]]:
    labels = read_label_image(frame.annotation, "Cityscapes")
    check_size(labels.shape, size, frame.annotation, "Cityscapes")
    ids = label_ids()
    numbers = {label: i for i, label in enumerate(ids, start=1)}
    wanted = np.concatenate([np.array(ids), *(np.arange(_PER_CLASS) + label * _PER_CLASS for label in ids)])
    return [
        {
            "category": numbers[value if value < _PER_CLASS else value // _PER_CLASS],
            "iscrowd": int(value < _PER_CLASS),
            "area": region.area,
            "bbox": region.bbox,
            "rle": region.rle,
            "polygons": [],
        }
        for value, region in regions(labels, wanted).items()
    ]


def _convert_polygons(frame: Frame, size: tuple[int, int]) -> list[dict[str, Any]]:
    from nds_plugin.datasets.cityscapes.polygons import read_polygons

    numbers = {name: i for i, name in enumerate(CLASSES, start=1)}
    return [
        {
            "category": numbers[item.name],
            "iscrowd": int(item.is_group),
            "area": item.area,
            "bbox": item.bbox,
            "rle": b"",
            "polygons": item.polygons,
        }
        for item in read_polygons(frame.annotation, CLASSES, size)
    ]


def _add(writer: StoreWriter, frames: Sequence[Frame], rows: list[dict[str, Any]], image_root: Path) -> None:
    names = [Path(os.path.relpath(frame.image, image_root)).as_posix() for frame in frames]
    writer.add_images(
        Images(
            image_id=pa.array([frame.image_id for frame in frames], pa.string()),
            file_name=pa.array(names, pa.string()),
            width=np.array([row["width"] for row in rows], dtype=np.int32),
            height=np.array([row["height"] for row in rows], dtype=np.int32),
        )
    )
    objects = [item for row in rows for item in row["objects"]]
    if not objects:
        return
    owners = [frame.image_id for frame, row in zip(frames, rows) for _ in row["objects"]]
    sizes = [(row["height"], row["width"]) for row in rows for _ in row["objects"]]
    polygons, rles = [item["polygons"] for item in objects], [item["rle"] for item in objects]
    writer.add_annotations(
        Annotations(
            image_id=pa.array(owners, pa.string()),
            category_id=np.array([item["category"] for item in objects], dtype=np.int64),
            bbox=np.array([item["bbox"] for item in objects], dtype=np.float64),
            iscrowd=np.array([item["iscrowd"] for item in objects], dtype=np.int8),
            area=np.array([item["area"] for item in objects], dtype=np.float64),
            polygons=Ragged.of_polygons(polygons) if any(polygons) else None,
            rle=Ragged.of_bytes(rles) if any(rles) else None,
            rle_size=np.array(sizes, dtype=np.int32) if any(rles) else None,
        )
    )


def _name(split: str, masks: str) -> str:
    return f"nds_cityscapes_fine_{'instance' if masks == 'rle' else 'polygon'}_{split}"


def _image_root(split: str, root: Path) -> Path:
    return root / "cityscapes" / "leftImg8bit" / split


def _count(split: str, masks: str, root: Path) -> tuple[int, str]:
    return len(find_frames(root, split, masks)), f"pairs of *{IMAGE_SUFFIX} and *{SUFFIXES[masks]}"


def _split(split: str, masks: str, images: int, paper_images: int | None = None, note: str = "") -> Split:
    return Split(
        name=_name(split, masks),
        split=split,
        spec=functools.partial(spec, split, masks),
        image_root=functools.partial(_image_root, split),
        metadata={"thing_classes": list(CLASSES), "evaluator_type": "coco"},
        paper_images=paper_images,
        images=images,
        note=note,
        quick_count=functools.partial(_count, split, masks),
    )


CITYSCAPES = PublicDataset(
    key="cityscapes",
    title="Cityscapes",
    task="detection",
    role="target",
    num_classes=len(CLASSES),
    paper_classes="8",
    page="https://www.cityscapes-dataset.com/downloads/",
    licence="Cityscapes' own: non-commercial research and teaching, after registration",
    tree=TREE,
    download="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
    splits=(
        _split("train", "rle", 2975, 2975),
        _split("val", "rle", 500, 500),
        _split("train", "polygon", 2975, note="the images of train, masks as polygons"),
    ),
)
