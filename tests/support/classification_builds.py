"""Stores and pairs of the classification sets, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from nds_plugin.datasets.catalogue import find_split
from nds_plugin.datasets.whole_images.image_classification import ImageClassification
from nds_plugin.errors import NDSError
from nds_plugin.store import AnnotationStore, open_or_build
from nds_plugin.store.records import RecordDecoder


def built(name: str, root: Path) -> AnnotationStore:
    split = find_split(name)
    assert split is not None
    return open_or_build(split.spec(root))


def pairs(name: str, root: Path) -> dict[str, int]:
    """Path and class of every image of a split."""
    split = find_split(name)
    assert split is not None
    return dict(ImageClassification.of_split(split, root))


def boxes(name: str, root: Path) -> dict[str, list[list[float]]]:
    """File name and boxes of every image of a split, as records give them."""
    store = built(name, root)
    decode = RecordDecoder(store, "", 1, lambda path: (0, 0))
    records = [decode(i) for i in range(len(store))]
    return {record["file_name"]: [a["bbox"] for a in record["annotations"]] for record in records}


def refused(name: str, root: Path) -> str:
    with pytest.raises(NDSError) as caught:
        built(name, root)
    assert not list(root.glob("nds_stores/*.arrow"))
    return " ".join(str(caught.value).split())
