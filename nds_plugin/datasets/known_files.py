"""COCO files that every host knows by name: those of the embedded sample, and those of a folder of datasets."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nds_plugin.datasets.public import datasets_root
from nds_plugin.errors import NDSError
from nds_plugin.files.locking import build_once, writable_folder

logger = logging.getLogger(__name__)

# "train_modanet13.json" holds the split "train" of another labelling, called "modanet13".
_SPLIT_FILE = re.compile(r"(train|val|test)(?:_(\w+))?")
DATA = "NDS_DATA"  # the environment variable that names a folder of datasets
DATA_PREFIX = "nds_data"


@dataclass(frozen=True)
class CocoFile:
    """A COCO file by its name.

    Attributes:
        name: of the dataset. json_file, images: where they are.
        prepare: makes them on first use; safe to call from several processes.
    """

    name: str
    json_file: Path
    images: Path
    prepare: Callable[[], Any] | None = field(default=None, compare=False)


def known_coco_files() -> list[CocoFile]:
    """All of them, for the present DETECTRON2_DATASETS and NDS_DATA; a folder that is not there has none."""
    data = os.getenv(DATA)
    found = sample_files(datasets_root())
    if data:
        with contextlib.suppress(NDSError):
            found += coco_folder(Path(data, "detection"), DATA_PREFIX)
    return found


def find_coco_file(name: str) -> CocoFile | None:
    """The file of a name; None where there is none.

    Raises:
        NDSError: the name is of a dataset below NDS_DATA, which is not set or not there.
    """
    if name.startswith(f"{DATA_PREFIX}_"):
        data = os.getenv(DATA)
        if not data:
            raise no_data(name)
        files = _files_by_name(Path(data, "detection"), DATA_PREFIX).get(name, [])
        if len(files) > 1:
            raise NDSError(_twins(files))
        return files[0] if files else None
    return next((f for f in sample_files(datasets_root()) if f.name == name), None)


def no_data(name: str) -> NDSError:
    """The error for a dataset below NDS_DATA where that is not set, or holds none."""
    data = os.getenv(DATA)
    state = f"{data} and holds none" if data else "not set"
    return NDSError(
        f"dataset {name!r} lies under NDS_DATA, which is {state}: point it at the folder that holds "
        "detection/NAME/images and detection/NAME/train.json (docs/datasets.md)."
    )


def coco_folder(root: Path, prefix: str) -> list[CocoFile]:
    """Every ``ROOT/NAME/SPLIT.json`` with images in ``ROOT/NAME/images``.

    SPLIT is train, val or test. The dataset is called ``PREFIX_NAME_SPLIT``; a file
    ``SPLIT_LABELLING.json`` beside it becomes ``PREFIX_NAME_LABELLING_SPLIT``. Files that would have one name
    are left out with a warning.

    Raises:
        NDSError: no such folder, or no dataset in it.
    """
    found = []
    for files in _files_by_name(root, prefix).values():
        if len(files) > 1:
            logger.warning("%s", _twins(files))
        else:
            found += files
    return found


def _twins(files: Sequence[CocoFile]) -> str:
    paths = " and ".join(str(file.json_file) for file in files)
    return f"{paths} would both be the dataset {files[0].name!r}: rename one."


def _files_by_name(root: Path, prefix: str) -> dict[str, list[CocoFile]]:
    if not root.is_dir():
        raise NDSError(
            f"folder of datasets not found: {root}: expected NAME/images and NAME/train.json in it."
        )
    found: dict[str, list[CocoFile]] = {}
    for json_file in sorted(root.glob("*/*.json")):
        match = _SPLIT_FILE.fullmatch(json_file.stem)
        images = json_file.parent / "images"
        if match is None or not images.is_dir():
            continue
        split, labelling = match.groups()
        name = "_".join(filter(None, (prefix, json_file.parent.name, labelling, split)))
        found.setdefault(name, []).append(CocoFile(name, json_file, images))
    if not found:
        raise NDSError(f"no datasets in {root}: expected NAME/images and NAME/train.json, NAME/val.json.")
    return found


def sample_files(root: Path) -> list[CocoFile]:
    """The embedded sample below DETECTRON2_DATASETS, made on first use."""
    from nds_plugin.datasets.sample.generate import DOMAINS

    folder = writable_folder(os.path.join(root, "nds_sample"), "nds_sample")
    prepare = functools.partial(_prepare_sample, folder)
    return [
        CocoFile(
            f"nds_sample_{domain}_{split}",
            folder / domain / f"{split}.json",
            folder / domain / "images",
            prepare,
        )
        for domain in DOMAINS
        for split in ("train", "val")
    ]


def _prepare_sample(folder: Path) -> None:
    from nds_plugin.datasets.sample import generate as sample

    build_once(folder, lambda: sample.is_complete(folder, sample.sample_key()), lambda: _generate(folder))


def _generate(folder: Path) -> None:
    from nds_plugin.datasets.sample import generate as sample

    logger.info("making the synthetic sample in %s.", folder)
    sample.generate(folder)
