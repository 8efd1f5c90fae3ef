"""PASCAL VOC 2007: boxes of all images, masks of those that have them.

All objects are there for training, the difficult ones too, as in Detectron2's own loader; the
evaluation (``nds_plugin.d2.train.voc_evaluation``) ignores difficult ones. The images of a split are in
ascending order of their ids, as in VOC's lists.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from nds_plugin.datasets.label_images import Region
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.datasets.voc.masks import read_masks
from nds_plugin.datasets.voc.xml import VocImage, read_voc_xml
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.store import Annotations, Images, Inputs, Ragged, StoreSpec, StoreWriter
from nds_plugin.store.schema import text

logger = logging.getLogger(__name__)

# In the order of the values of SegmentationClass, from 1, which are the category ids here.
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
TREE = """\
VOC2007/ or VOCdevkit/VOC2007/
  Annotations/          9,963 xml
  ImageSets/Main/       train.txt, val.txt, trainval.txt, test.txt
  JPEGImages/           9,963 jpg
  SegmentationObject/   632 png, optional: masks
  SegmentationClass/    632 png, optional: masks"""
_FORMAT = 1
_BATCH = 1000  # images that are Python objects at a time


def voc_root(root: Path) -> Path:
    """The folder that holds Annotations, given DETECTRON2_DATASETS: ``VOC2007``, else ``VOCdevkit/VOC2007``."""
    plain, devkit = root / "VOC2007", root / "VOCdevkit" / "VOC2007"
    return devkit if devkit.is_dir() and not plain.is_dir() else plain


def image_ids(root: Path, split: str) -> list[str]:
    """The ids that a list of ``ImageSets/Main`` names, in its order.

    Raises:
        NDSError: the list is missing, not text, empty, or names an image twice.
    """
    path = _list_path(root, split)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise missing_tree(VOC2007, root, path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise NDSError(f"VOC2007: {path} cannot be read as text ({error}).") from None
    ids = [line.split()[0] for line in lines if line.strip()]
    if not ids:
        raise NDSError(f"VOC2007: {path} lists no images.")
    if len(set(ids)) != len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise NDSError(f"VOC2007: {path} lists {len(ids) - len(set(ids))} images twice, first {twice}.")
    return ids


def spec(split: str, root: Path) -> StoreSpec:
    """How the store of a split ("train", "val", "trainval", "test") is made."""
    name = f"nds_voc_2007_{split}"
    return StoreSpec(
        name=name,
        path=store_path(root, name),
        inputs=functools.partial(_inputs, split, root),
        read=functools.partial(_read, split, root),
    )


def _list_path(root: Path, split: str) -> Path:
    return voc_root(root) / "ImageSets" / "Main" / f"{split}.txt"


def _inputs(split: str, root: Path) -> Inputs:
    ids, folder = image_ids(root, split), voc_root(root)
    annotations = _names(folder / "Annotations")
    missing = [i for i in ids if f"{i}.xml" not in annotations]
    if len(missing) == len(ids):
        raise missing_tree(VOC2007, root, folder / "Annotations" / f"{ids[0]}.xml")
    if missing:
        raise NDSError(
            f"VOC2007: {len(missing)} of the {len(ids)} images of {_list_path(root, split)} have no annotation, first "
            f"{folder / 'Annotations' / (missing[0] + '.xml')}: unpack the archive completely."
        )
    tree = [folder / "Annotations" / f"{i}.xml" for i in ids]
    for i in _with_masks(folder, ids):
        tree += _mask_paths(folder, i)
    return Inputs(files=(_list_path(root, split),), tree=tree, settings=["voc", _FORMAT], root=root)


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _with_masks(folder: Path, ids: list[str]) -> list[str]:
    """The ids with masks, in order; both kinds of image must be there."""
    objects, classes = _names(folder / "SegmentationObject"), _names(folder / "SegmentationClass")
    found = [i for i in ids if f"{i}.png" in objects]
    alone = [i for i in found if f"{i}.png" not in classes]
    if alone:
        raise NDSError(
            f"VOC2007: {len(alone)} images of {folder / 'SegmentationObject'} have no counterpart in "
            f"SegmentationClass, first {alone[0]}.png: unpack the archive completely."
        )
    return found


def _mask_paths(folder: Path, image_id: str) -> tuple[Path, Path]:
    name = f"{image_id}.png"
    return folder / "SegmentationObject" / name, folder / "SegmentationClass" / name


def _read(split: str, root: Path, writer: StoreWriter, parts: Path, target: Path) -> list[tuple[int, str]]:
    del parts, target  # seconds of work
    ids, folder = image_ids(root, split), voc_root(root)
    masked, odd = set(_with_masks(folder, ids)), []
    batch: list[tuple[str, VocImage, dict[int, Region]]] = []
    for image_id in tqdm(ids, desc=writer.where, unit="image", disable=None):
        path = folder / "Annotations" / f"{image_id}.xml"
        image = read_voc_xml(path)
        masks: dict[int, Region] = {}
        _check_names(image, path)
        if image_id in masked:
            masks, left_out = read_masks(*_mask_paths(folder, image_id), image, CLASSES, "VOC2007")
            odd += left_out
        batch.append((image_id, image, masks))
        if len(batch) == _BATCH:
            _add(writer, batch)
            batch = []
    if batch:
        _add(writer, batch)
    if odd:
        logger.warning(
            "%s: %d masks are of no object and left out (first: %s).", writer.where, len(odd), odd[0]
        )
    return list(enumerate(CLASSES, start=1))


def _check_names(image: VocImage, path: Path) -> None:
    for item in image.objects:
        if item.name not in CLASSES:
            raise unknown_name(f"class in {path}:", item.name, CLASSES)


def _add(writer: StoreWriter, batch: list[tuple[str, VocImage, dict[int, Region]]]) -> None:
    writer.add_images(
        Images(
            image_id=pa.array([image_id for image_id, _, _ in batch], pa.string()),
            file_name=text(f"JPEGImages/{image_id}.jpg" for image_id, _, _ in batch),
            width=np.array([image.width for _, image, _ in batch], dtype=np.int32),
            height=np.array([image.height for _, image, _ in batch], dtype=np.int32),
            url=text(image.url for _, image, _ in batch),
            author=text(image.author for _, image, _ in batch),
        )
    )
    rows = [(i, item, masks.get(k)) for i, image, masks in batch for k, item in enumerate(image.objects)]
    if not rows:
        return
    masks = [mask for _, _, mask in rows]
    size = {image_id: (image.height, image.width) for image_id, image, _ in batch}
    writer.add_annotations(
        Annotations(
            image_id=pa.array([image_id for image_id, _, _ in rows], pa.string()),
            category_id=np.array([CLASSES.index(item.name) + 1 for _, item, _ in rows], dtype=np.int64),
            bbox=np.array([item.bbox for _, item, _ in rows], dtype=np.float64),
            iscrowd=np.zeros(len(rows), dtype=np.int8),
            flags=np.array([item.flags for _, item, _ in rows], dtype=np.uint8),
            area=np.array([np.nan if mask is None else mask.area for mask in masks], dtype=np.float64),
            rle=Ragged.of_bytes([None if mask is None else mask.rle for mask in masks]),
            rle_size=np.array([size[i] if mask else (0, 0) for i, _, mask in rows], dtype=np.int32),
        )
    )


def _count(split: str, root: Path) -> tuple[int, str]:
    return len(image_ids(root, split)), f"lines of ImageSets/Main/{split}.txt"


def _dirname(root: Path) -> str:
    return str(voc_root(root))


def _split(split: str, images: int, paper_images: int | None = None, note: str = "") -> Split:
    return Split(
        name=f"nds_voc_2007_{split}",
        split=split,
        spec=functools.partial(spec, split),
        image_root=voc_root,
        metadata={
            "thing_classes": list(CLASSES),
            "evaluator_type": "pascal_voc",
            "dirname": _dirname,  # this and the next two: what Detectron2's own evaluator looks for
            "year": 2007,
            "split": split,
        },
        paper_images=paper_images,
        images=images,
        note=note,
        quick_count=functools.partial(_count, split),
    )


VOC2007 = PublicDataset(
    key="voc2007",
    title="VOC2007",
    task="detection",
    role="target",
    num_classes=len(CLASSES),
    paper_classes="20",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
    licence="images under the Flickr terms of use",
    tree=TREE,
    download="VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar",
    splits=(
        _split("train", 2501),
        _split("val", 2510),
        _split("trainval", 5011, 5011),
        _split("test", 4952, 4962, "the published list has 4,952; the paper's figure looks like a misprint"),
    ),
)
