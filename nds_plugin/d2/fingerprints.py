"""What a registered dataset is made of, by which later steps know that it changed."""

from __future__ import annotations

import hashlib
import json

from nds_plugin.artifacts import content_hash, file_hash
from nds_plugin.d2.registration import coco_dataset, dataset_dicts


def dataset_fingerprint(name: str) -> str:
    """Hash of a registered dataset: of its COCO file where it has one, else of its dicts.

    Raises:
        NDSError: an unknown dataset, or one that cannot be read.
    """
    coco = coco_dataset(name)
    if coco is not None:
        return file_hash(coco.located())
    digest = hashlib.sha256()
    for record in dataset_dicts(name):
        digest.update(json.dumps(record, sort_keys=True, default=_plain).encode())
    return content_hash([name, digest.hexdigest()])


def image_root(name: str) -> str:
    """The folder of a registered dataset's images, empty where each dict names its own file."""
    coco = coco_dataset(name)
    return "" if coco is None else str(coco.image_root)


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
