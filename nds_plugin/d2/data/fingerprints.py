"""What a registered dataset is made of, by which later steps know that it changed."""

from __future__ import annotations

import hashlib
import json

from nds_plugin.d2.data.registration import dataset_dicts, store_source
from nds_plugin.files.artifacts import content_hash


def dataset_fingerprint(name: str) -> str:
    """Hash of a registered dataset: of what its store was built from, else of its dicts.

    Raises:
        NDSError: an unknown dataset, or one that cannot be read.
    """
    source = store_source(name)
    if source is not None:
        return source.fingerprint()
    digest = hashlib.sha256()
    for record in dataset_dicts(name):
        digest.update(json.dumps(record, sort_keys=True, default=_plain).encode())
    return content_hash([name, digest.hexdigest()])


def image_root(name: str) -> str:
    """The folder of a registered dataset's images, empty where each dict names its own file."""
    source = store_source(name)
    return "" if source is None else str(source.image_root)


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
