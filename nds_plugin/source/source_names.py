"""Names of sources that are given by their files: derived from the path, told apart by the folders above it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.errors import NDSError


def coco_name(json_file: str | os.PathLike[str]) -> str:
    """``FOLDER_STEM`` of an annotation file, FOLDER being the first that is not "annotations".

    >>> coco_name("coco/annotations/instances_train2017.json")
    'coco_instances_train2017'
    """
    folder = _coco_folder(json_file)
    stem = Path(json_file).absolute().stem
    return f"{folder.name}_{stem}" if folder.name else stem


def folder_name(folder: str | os.PathLike[str]) -> str:
    """The name of a folder of images, or of the folder above where that is "images"."""
    return _image_folder(folder).name or "folder"


def name_sources(
    cocos: Sequence[str | os.PathLike[str]], folders: Sequence[str | os.PathLike[str]]
) -> list[str]:
    """Names of sources of COCO files and of folders, in this order, that are all different.

    A name that only one source has stays as :func:`coco_name` and :func:`folder_name` make it. Where several
    would have the same, each is preceded by the folders above that tell it from the others: the nearest
    ones that do, without those that all of them share.

    >>> name_sources(["projA/train/data.json", "projB/train/data.json"], [])
    ['projA_train_data', 'projB_train_data']

    Raises:
        NDSError: two are the same file or folder.
    """
    above = [_coco_folder(path).parent for path in cocos] + [_image_folder(path).parent for path in folders]
    names = [coco_name(path) for path in cocos] + [folder_name(path) for path in folders]
    result = list(names)
    for name in set(names):
        same = [i for i, other in enumerate(names) if other == name]
        if len(same) > 1:
            for i, prefix in zip(same, _telling_apart(name, [above[i] for i in same])):
                result[i] = f"{prefix}_{name}"
    return result


def _telling_apart(name: str, folders: Sequence[Path]) -> list[str]:
    """For each of some folders the names of the nearest ones, from itself upwards, that tell them apart."""
    upwards = [tuple(reversed(folder.parts[1:])) for folder in folders]
    deepest = max(len(parts) for parts in upwards)
    padded = [parts + ("",) * (deepest - len(parts)) for parts in upwards]
    for depth in range(1, deepest + 1):
        if len({parts[:depth] for parts in padded}) == len(padded):
            differing = [i for i in reversed(range(depth)) if len({parts[i] for parts in padded}) > 1]
            return ["_".join(parts[i] for i in differing if parts[i]) for parts in padded]
    raise NDSError(
        f"{len(folders)} sources would be called {name!r}, and their folders do not tell them apart: give each a "
        "name by --name."
    )


def _coco_folder(json_file: str | os.PathLike[str]) -> Path:
    folder = Path(os.path.abspath(json_file)).parent
    return folder.parent if folder.name == "annotations" else folder


def _image_folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(folder))
    return path.parent if path.name == "images" else path
