"""What a registered dataset is made of, by which later steps know that it changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os

from detectron2.data import DatasetCatalog

from nds_plugin.d2.data.drawn_dataset import DrawnDataset
from nds_plugin.d2.data.registration import ImageSubset, dataset_dicts, store_source
from nds_plugin.d2.data.store_source import Annotated
from nds_plugin.datasets.image_subset import subset_fingerprint
from nds_plugin.files.artifacts import content_hash, file_hash
from nds_plugin.selection.selection import Selection


def dataset_fingerprint(name: str) -> str:
    """Hash of a registered dataset: of what its store was built from or it was drawn by, else of its dicts.

    Raises:
        NDSError: an unknown dataset, or one that cannot be read.
    """
    source = store_source(name)
    if source is not None:
        return source.fingerprint()
    function = DatasetCatalog[name]
    if isinstance(function, Annotated):
        return content_hash(["annotated", dataset_fingerprint(function.base)])
    if isinstance(function, ImageSubset):
        return subset_fingerprint(dataset_fingerprint(function.base), function.num_images, function.seed)
    if isinstance(function, DrawnDataset):
        return _of_drawn(function)
    digest = hashlib.sha256()
    for record in dataset_dicts(name):
        digest.update(json.dumps(record, sort_keys=True, default=_plain).encode())
    return content_hash([name, digest.hexdigest()])


def _of_drawn(drawn: DrawnDataset) -> str:
    if drawn.content is None:
        of_file = os.stat(drawn.path) if os.path.isfile(drawn.path) else None
        sources, images = _drawn_by(drawn.path, of_file and (of_file.st_mtime_ns, of_file.st_size))
    else:
        sources, images = _what_is_drawn(drawn.content)
    mapping = file_hash(drawn.label_mapping) if drawn.label_mapping else ""
    return content_hash([images, mapping, [[name, dataset_fingerprint(name)] for name in sources]])


@functools.lru_cache(maxsize=16)
def _drawn_by(path: str, state: object) -> tuple[list[str], str]:
    """Of a selection's file as it is now, which ``state`` tells."""
    del state
    return _what_is_drawn(Selection.load(path))


def _what_is_drawn(selection: Selection) -> tuple[list[str], str]:
    """The sources of a selection, and a hash of its images with their probabilities."""
    digest = hashlib.sha256(selection.mode.encode())
    for name in ("source", "image_id", "cluster", "p"):
        column = selection.column(name).cast("string").to_pylist()
        digest.update("\n".join(column).encode())
    return selection.sources, digest.hexdigest()


def image_root(name: str) -> str:
    """The folder of a registered dataset's images, empty where each dict names its own file."""
    source = store_source(name)
    return "" if source is None else str(source.image_root)


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
