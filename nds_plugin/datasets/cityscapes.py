"""Cityscapes' fine annotations as COCO json, over its eight classes with instances.

Read from the ``instanceIds`` images, which are exact to the pixel and hold what occludes what:
a value of ``label id * 1000 + n`` is the n-th instance of a class, the bare label id is a group
whose members nobody told apart. Instances become annotations, groups become crowds
(``iscrowd`` 1), all of them as compressed RLE: train with ``INPUT.MASK_FORMAT: bitmask``.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from nds_plugin.artifacts import atomic_write, content_hash, is_valid, write_json
from nds_plugin.errors import NDSError
from nds_plugin.locking import build_once, writable_folder

logger = logging.getLogger(__name__)

CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SPLITS = ("train", "val")
KIND = "cityscapes-conversion"
IMAGE_SUFFIX = "_leftImg8bit.png"
INSTANCE_SUFFIX = "_gtFine_instanceIds.png"
_PER_CLASS = 1000
_FORMAT = 1
_MAX_THREADS = 16


@dataclass(frozen=True)
class Frame:
    """One annotated image: its id (the file name's stem) and its two files."""

    image_id: str
    image: str
    instances: str


def json_path(root: str | os.PathLike[str], split: str) -> Path:
    """Where the converted split lies: ``ROOT/annotations``, or the user's cache if ROOT is read-only."""
    root = Path(root)
    name = f"cityscapes_{content_hash(str(root.absolute()))[:12]}"
    return writable_folder(root / "annotations", name) / f"nds_instances_{split}.json"


def prepare(root: str | os.PathLike[str], split: str) -> Path:
    """Convert a split unless that is done already; safe to call from many processes at once.

    The result is made again when an image or an annotation file is added, removed or changed
    (told by names, sizes and times of change).

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: "train" or "val".

    Returns:
        Path of the COCO json; ``file_name`` in it is relative to ``ROOT/leftImg8bit/SPLIT``.

    Raises:
        NDSError: files are missing or broken, cityscapesscripts is not installed, or the result
            cannot be written.
    """
    frames = find_frames(root, split)
    key = _key(frames)
    path = json_path(root, split)
    receipt = path.with_suffix(".key.json")

    def is_ready() -> bool:
        return path.is_file() and is_valid(receipt, KIND, key)

    def build() -> None:
        document = convert(frames, Path(root) / "leftImg8bit" / split, f"Cityscapes {split}")
        receipt.unlink(missing_ok=True)
        with atomic_write(path, "w") as file:
            json.dump(document, file)
        counts = {name: len(document[name]) for name in ("images", "annotations")}
        write_json(receipt, KIND, key, counts)
        logger.info("%s: %d images, %d annotations.", path, counts["images"], counts["annotations"])

    build_once(path, is_ready, build)
    return path


def find_frames(root: str | os.PathLike[str], split: str) -> list[Frame]:
    """The images of a split that have annotations, sorted by city and name.

    Raises:
        NDSError: the tree is not there, or an image and its annotation are not both there.
    """
    root = Path(root)
    images = _files(root / "leftImg8bit" / split, IMAGE_SUFFIX)
    labels = _files(root / "gtFine" / split, INSTANCE_SUFFIX)
    if not images or not labels:
        absent = "image" if not images else "annotation"
        raise NDSError(
            f"Cityscapes {split}: no {absent} found; expected "
            f"{root}/leftImg8bit/{split}/CITY/*{IMAGE_SUFFIX} and "
            f"{root}/gtFine/{split}/CITY/*{INSTANCE_SUFFIX}: unpack leftImg8bit_trainvaltest.zip and "
            "gtFine_trainvaltest.zip of cityscapes-dataset.com there, or set DETECTRON2_DATASETS."
        )
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        have = images.get(alone[0]) or labels[alone[0]]
        raise NDSError(
            f"Cityscapes {split}: {len(alone)} images and annotations lack their counterpart, first {have}: "
            "unpack both archives completely."
        )
    return [Frame(os.path.basename(stem), images[stem], labels[stem]) for stem in sorted(images)]


def convert(frames: list[Frame], image_root: str | os.PathLike[str], description: str) -> dict[str, Any]:
    """COCO document of the frames; ids of categories count from 1 in the order of ``CLASSES``."""
    label_ids = _label_ids()
    work = functools.partial(_convert_frame, label_ids=label_ids)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Threads: decoding and numpy let go of the interpreter lock, so processes are no faster.
    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as executor:
        results = executor.map(work, frames)
        progress = tqdm(results, total=len(frames), desc=description, unit="image", disable=None)
        for frame, ((height, width), objects) in zip(frames, progress):
            name = Path(os.path.relpath(frame.image, image_root)).as_posix()
            images.append({"id": frame.image_id, "file_name": name, "width": width, "height": height})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": frame.image_id, **item})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    info = {"description": f"{description}, from instanceIds by nds_plugin"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def objects_of(
    instance_ids: npt.NDArray[np.integer[Any]], label_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """COCO annotations (without ids) of one image of instance ids.

    Args:
        instance_ids: shape (height, width).
        label_ids: Cityscapes' label id of each category, in the order of the category ids.

    Returns:
        ``category_id``, ``iscrowd``, ``segmentation`` (compressed RLE, counts as text), ``area`` in
        pixels and ``bbox`` (x, y, width, height), in ascending order of the instance ids.
    """
    from pycocotools import mask

    height, width = instance_ids.shape
    flat = instance_ids.ravel(order="F")
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, flat.size])
    values = flat[starts]
    category = {label: i for i, label in enumerate(label_ids, start=1)}
    objects = []
    for value in np.unique(values).tolist():
        crowd = value < _PER_CLASS
        category_id = category.get(value if crowd else value // _PER_CLASS)
        if category_id is None:
            continue
        mine = values == value
        counts = _run_lengths(starts[mine], lengths[mine], flat.size)
        rle = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        box = mask.toBbox(rle).tolist()
        segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        area = int(lengths[mine].sum())
        objects.append(
            {
                "category_id": category_id,
                "iscrowd": int(crowd),
                "area": area,
                "bbox": box,
                "segmentation": segmentation,
            }
        )
    return objects


def _run_lengths(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: int) -> list[int]:
    """Uncompressed RLE counts, off and on by turns, of the runs that are on."""
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    return [int(n) for n in np.diff(np.r_[0, edges, size])]


def _convert_frame(frame: Frame, label_ids: tuple[int, ...]) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    try:
        with Image.open(frame.image) as image:
            size = (image.height, image.width)
        with Image.open(frame.instances) as image:
            instance_ids = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise NDSError(f"Cityscapes: {frame.image} or its annotation {frame.instances}: {error}.") from None
    if instance_ids.shape != size:
        raise NDSError(
            f"Cityscapes: {frame.instances} has shape {instance_ids.shape}, expected one channel of "
            f"{size} (height, width) as {frame.image}."
        )
    return size, objects_of(instance_ids, label_ids)


def _label_ids() -> tuple[int, ...]:
    try:
        from cityscapesscripts.helpers.labels import name2label
    except ImportError:
        raise NDSError(
            "Cityscapes needs the package cityscapesscripts: pip install --no-deps cityscapesscripts."
        ) from None
    return tuple(name2label[name].id for name in CLASSES)


def _files(folder: Path, suffix: str) -> dict[str, str]:
    """``CITY/STEM`` -> path of the files that end in ``suffix``."""
    found = folder.glob(f"*/*{suffix}") if folder.is_dir() else iter(())
    return {f"{path.parent.name}/{path.name[: -len(suffix)]}": str(path) for path in found}


def _key(frames: Iterable[Frame]) -> str:
    rows: list[Any] = [_FORMAT, CLASSES]
    for frame in frames:
        for path in (frame.image, frame.instances):
            status = os.stat(path)
            rows.append([frame.image_id, status.st_size, status.st_mtime_ns])
    return content_hash(rows)
