"""Stores and records of OpenImages splits, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openimages_trees import FLAGS

from nds_plugin.datasets.openimages.split import openimages_split
from nds_plugin.datasets.public import Split
from nds_plugin.images.reading import read_header
from nds_plugin.store import AnnotationStore, open_or_build, schema
from nds_plugin.store.records import RecordDecoder

TRAIN = openimages_split("train")
MASKS = openimages_split("train", masks=True)
XYWH_ABS = 1
BITS = dict(zip(FLAGS, (schema.OCCLUDED, schema.TRUNCATED, schema.GROUP_OF, schema.DEPICTION, schema.INSIDE)))


def build(root: Path, split: Split = TRAIN) -> AnnotationStore:
    return open_or_build(split.spec(root))


def records(root: Path, split: Split = TRAIN) -> dict[str, dict[str, Any]]:
    store = build(root, split)
    decode = RecordDecoder(store, str(split.image_root(root)), XYWH_ABS, lambda path: read_header(path).shown)
    found = [decode(i) for i in range(len(store))]
    assert [record["image_id"] for record in found] == sorted(record["image_id"] for record in found)
    return {record["image_id"]: record for record in found}


def flags(store: AnnotationStore) -> list[list[int]]:
    """Flags of the annotations of each image."""
    found = []
    for number in range(store.num_batches):
        objects = store.objects(number)
        values = objects.columns["flags"].tolist()
        found += [values[a:b] for a, b in zip(objects.starts[:-1], objects.starts[1:])]
    return found
