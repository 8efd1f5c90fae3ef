"""A COCO json file as a Detectron2 dataset: checked, clipped, and with one-line errors.

The dicts are those of Detectron2's ``load_coco_json`` for a file without faults, in less time (the
file is parsed once, with the garbage collector paused).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from nds_plugin.datasets.coco_json import no_gc, read_coco_json, sorted_categories
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)


def datasets_root() -> str:
    """``$DETECTRON2_DATASETS``, by default "datasets", as everywhere in Detectron2."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


@dataclass(frozen=True)
class CocoDataset:
    """What ``DatasetCatalog`` calls for a dataset that is a COCO json file.

    Attributes:
        name: the registered name.
        json_file, image_root: paths; nothing is read before the dataset is used.
        prepare: makes the files on first use; it must be safe to call from several processes.
    """

    name: str
    json_file: str
    image_root: str
    prepare: Callable[[], Any] | None = field(default=None, compare=False)

    def __call__(self) -> list[dict[str, Any]]:
        """The dataset's dicts; sets ``thing_classes`` and the id map of its metadata."""
        with no_gc():
            document = self.document()
            classes, id_map = _classes(document)
            try:
                MetadataCatalog.get(self.name).set(
                    thing_classes=classes, thing_dataset_id_to_contiguous_id=id_map
                )
            except AssertionError:
                known = MetadataCatalog.get(self.name).thing_classes
                raise NDSError(
                    f"dataset {self.name!r}: {self.json_file} lists the classes {_few(classes)}, but that "
                    f"name is registered for the classes {_few(known)}: it is another dataset."
                ) from None
            return to_dicts(document, self.image_root, self.name)

    def document(self) -> dict[str, Any]:
        """The checked COCO document."""
        return read_coco_json(self.located())

    def located(self) -> str:
        """Path of the json file, made ready first.

        Raises:
            NDSError: it is not there.
        """
        if self.prepare is not None:
            self.prepare()
        path = self.json_file
        if "://" in path:
            from detectron2.utils.file_io import PathManager

            path = str(PathManager.get_local_path(path))
        if not os.path.isfile(path):
            raise missing_file(self.name, path)
        return path

    def classes(self) -> list[str]:
        """Names of the classes in the order of the contiguous ids."""
        return _classes(self.document())[0]


def missing_file(name: str, path: str) -> NDSError:
    """The error for a registered dataset whose annotation file is not there."""
    root = os.getenv("DETECTRON2_DATASETS")
    setting = f"is {root!r}" if root else 'is not set, so "datasets" is used'
    return NDSError(
        f"dataset {name!r}: annotation file not found: {path}. "
        f"DETECTRON2_DATASETS {setting}: point it at the folder that holds the datasets."
    )


def to_dicts(document: dict[str, Any], image_root: str, name: str) -> list[dict[str, Any]]:
    """Detectron2's dataset dicts of a checked COCO document, in ascending order of the image ids.

    As in ``load_coco_json``, instances whose polygons all have fewer than three points are left out,
    and uncompressed RLE is compressed. Annotations with "ignore" become crowds (our choice).
    """
    _, id_map = _classes(document)
    records: dict[Any, dict[str, Any]] = {}
    for image in sorted(document["images"], key=lambda image: image["id"]):
        if not image.get("width") or not image.get("height"):
            raise NDSError(f"dataset {name!r}: image {image['id']!r} has no width or height.")
        records[image["id"]] = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
    broken = 0
    for annotation in document["annotations"]:
        try:
            instance = _instance(annotation, id_map)
        except (TypeError, ValueError, KeyError, AttributeError):
            raise NDSError(
                f"dataset {name!r}: annotation {annotation.get('id')!r} of image {annotation['image_id']!r} has a "
                "segmentation that is neither polygons, [[x, y, ...], ...], nor run lengths, {size, counts}."
            ) from None
        if instance is None:
            broken += 1
        else:
            records[annotation["image_id"]]["annotations"].append(instance)
    if broken:
        logger.warning("dataset %r: %d instances left out, their masks are not polygons.", name, broken)
    return list(records.values())


def _instance(annotation: dict[str, Any], id_map: dict[Any, int]) -> dict[str, Any] | None:
    instance: dict[str, Any] = {key: annotation[key] for key in ("iscrowd", "bbox") if key in annotation}
    if annotation.get("ignore"):
        instance["iscrowd"] = 1
    instance["category_id"] = id_map[annotation["category_id"]]
    instance["bbox_mode"] = BoxMode.XYWH_ABS
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        instance["segmentation"] = segmentation
    elif segmentation:
        polygons = [part for part in segmentation if len(part) % 2 == 0 and len(part) >= 6]
        if not polygons:
            return None
        instance["segmentation"] = polygons
    if annotation.get("keypoints"):
        # COCO gives pixel indices, Detectron2 wants coordinates: the middle of the pixel.
        points = annotation["keypoints"]
        instance["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(points)]
    return instance


def _classes(document: dict[str, Any]) -> tuple[list[str], dict[Any, int]]:
    categories = sorted_categories(document)
    return [c["name"] for c in categories], {c["id"]: i for i, c in enumerate(categories)}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
