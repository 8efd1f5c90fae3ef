"""COCO json files as annotation stores: read in pieces, checked, one pass.

The records of the store are those that Detectron2's ``load_coco_json`` makes of a file without
faults. Boxes that leave their image are clipped, annotations without any area in it are dropped
(``nds_plugin.store.boxes``). Annotations with "ignore" become crowds (our choice).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.datasets.coco.columns import CocoColumns
from nds_plugin.datasets.coco.json_stream import stream_object
from nds_plugin.datasets.public import datasets_root
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash
from nds_plugin.store import (
    AnnotationStore,
    Inputs,
    StoreSpec,
    StoreWriter,
    open_or_build,
)
from nds_plugin.store.opening import STORES, store_place

KEYS = ("images", "annotations", "categories")
_IMAGE_ID = {"images": "id", "annotations": "image_id"}
READER = 2  # raised when this module or columns.py makes other records of the same file
SETTINGS = ["coco", READER]
# Datasets whose store is called as they are: the places of their files below DETECTRON2_DATASETS.
FILES = {
    "nds_coco_2017_train": "coco/annotations/instances_train2017.json",
    "nds_coco_2017_val": "coco/annotations/instances_val2017.json",
    "modanet_train": "modanet/annotations/modanet2018_instances_train.json",
    "modanet_val": "modanet/annotations/modanet2018_instances_val.json",
}
_NAMES = {place: name for name, place in FILES.items()}
_CHUNK = 20_000  # items that are Python objects at a time


def coco_spec(
    json_file: str | os.PathLike[str], name: str, root: str | os.PathLike[str] | None = None
) -> StoreSpec:
    """How the store of a COCO file is made.

    Args:
        json_file: the annotation file.
        name: of the dataset, for messages.
        root: folder of stores; default: see :func:`coco_store_path`.
    """
    path = Path(os.path.abspath(json_file))
    return StoreSpec(
        name=name,
        path=store_place(coco_store_path(path, root)),
        inputs=functools.partial(Inputs, files=(path,), settings=SETTINGS),
        read=functools.partial(read_coco, path),
        where=os.fspath(json_file),
    )


def coco_store_path(json_file: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Path:
    """Where the store of a COCO file should lie: one place for a file, whatever it is registered as.

    Args:
        root: folder of stores; default ``$DETECTRON2_DATASETS/nds_stores`` for a file below
            DETECTRON2_DATASETS, for others ``nds_stores`` beside the file.
    """
    if root is None:
        root = (datasets_root() if _below(json_file, datasets_root()) else Path(json_file).parent) / STORES
    folder = Path(root)
    place = _below(json_file, folder.parent) or os.path.realpath(json_file)
    # Relative to the stores' own folder: moved with it, or reached through a link, it is the same one.
    return folder / f"{_NAMES.get(place) or f'{Path(place).stem}-{content_hash(place)[:10]}'}.arrow"


def _below(path: str | os.PathLike[str], folder: Path) -> str:
    """The path relative to a folder that it is in, by name or behind links; else empty."""
    for resolve in (os.path.abspath, os.path.realpath):
        found, top = Path(resolve(path)), Path(resolve(folder))
        if top in found.parents:
            return found.relative_to(top).as_posix()
    return ""


def open_coco(
    json_file: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    require: Sequence[str] = KEYS,
) -> AnnotationStore:
    """The store of a COCO file, built first where need be.

    Args:
        require: top-level keys that the file must have.

    Raises:
        NDSError: see :func:`read_coco`.
    """
    store = open_or_build(coco_spec(json_file, os.fspath(json_file), root))
    check_keys(store, require, json_file)
    return store


def check_keys(store: AnnotationStore, require: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Raise the error of a COCO file that lacks some of its keys."""
    _check_keys(store.header["info"]["keys"], require, path)


def _check_keys(keys: Sequence[str], require: Sequence[str], path: str | os.PathLike[str]) -> None:
    missing = [key for key in require if key not in keys]
    if missing:
        lacks = ", ".join(map(repr, missing))
        have = ", ".join(map(repr, keys[:8])) or "none"
        raise NDSError(f"{path} is not COCO json: it lacks {lacks}; its keys: {have}.")


def read_coco(
    json_file: Path, writer: StoreWriter, parts: Path, target: Path, images: Collection[Any] | None = None
) -> list[tuple[int, str]]:
    """Feed a writer with a COCO file; its categories.

    Args:
        images: ids of the only images to take; by default all.

    Raises:
        NDSError: see ``stream_object``; not COCO; ids of mixed types; numbers or masks that are none.
    """
    del parts, target
    reader = CocoColumns(json_file, writer)
    seen: dict[str, None] = {}
    for key, value in stream_object(json_file, KEYS, _CHUNK):
        seen[key] = None
        if key in KEYS and not isinstance(value, list):
            raise NDSError(
                f"{json_file} is not COCO json: {key!r} must be a list, got a {type(value).__name__}."
            )
        if images is not None and key in _IMAGE_ID:
            value = [item for item in value if not _of_others(item, _IMAGE_ID[key], images)]
        reader.take(key, value)
    if "images" not in seen:
        _check_keys(list(seen), KEYS, json_file)
    writer.info["keys"] = list(seen)
    return reader.finish()


def _of_others(item: Any, key: str, images: Collection[Any]) -> bool:
    """Whether an item is of an image that is not asked for; what has no id at all is left for the check."""
    owner = item.get(key) if isinstance(item, dict) else None
    return isinstance(owner, (int, float, str)) and owner not in images
