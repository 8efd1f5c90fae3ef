"""A list of dicts and a store of the same images are one shape: whatever is asked of both has one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from coco_files import document, write_coco

from nds_plugin.d2.data.catalog import catalogued, joined
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.list_dataset import ListDataset
from nds_plugin.d2.data.registration import dataset_dicts, registered_temporarily
from nds_plugin.d2.data.store_dataset import StoreDataset

NEW_CLASS = np.array([1, -1], np.int32)  # the second class is dropped
ALIKE = {
    "itself": lambda d: d,
    "ids": lambda d: d.image_ids().to_pylist(),
    "sources": lambda d: d.sources().to_pylist(),
    "sizes": lambda d: d.sizes().tolist(),
    "counts of classes": lambda d: d.class_counts(2).tolist(),
    "those with an instance": lambda d: d.annotated(),
    "the first and third": lambda d: d.take(np.array([0, 2])),
    "one by its id": lambda d: d.choose(pa.array(["12", "nowhere"])),
    "other classes": lambda d: d.relabelled(NEW_CLASS, 3, "both"),
    "sources of other classes": lambda d: d.relabelled(NEW_CLASS, 3, "both").sources().to_pylist(),
    "instances of other classes": lambda d: d.relabelled(NEW_CLASS, 3, "both").annotated(),
    "joined with itself": lambda d: joined([d, d]),
    "packed": lambda d: [d.packed()[i] for i in range(len(d))],
}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    content = document()
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 20, "iscrowd": 1})
    path = write_coco(tmp_path, content)
    with registered_temporarily("both", json_file=str(path), image_root="images"):
        yield dataset_dicts("both")


@pytest.mark.parametrize("question", ALIKE)
def test_a_list_and_a_store_answer_alike(question: str, store: StoreDataset) -> None:
    listed = ListDataset(list(store), ["both"] * len(store))
    of_list, of_store = ALIKE[question](listed), ALIKE[question](store)
    assert list(of_list) == list(of_store)
    assert len(of_list) == len(of_store) > 0


def test_what_is_registered_in_any_form_comes_out_in_one_shape(store: StoreDataset) -> None:
    records = list(store)

    class MapStyle:
        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return records[index]

    for form in (records, MapStyle()):
        with registered_temporarily("form", lambda form=form: form, thing_classes=["cat", "dog"]):
            found = catalogued("form")
        assert isinstance(found, DatasetDicts)
        assert list(found) == records
        assert found.sources().to_pylist() == ["form"] * len(records)


def test_a_list_joined_with_a_store_keeps_the_images_of_both(store: StoreDataset) -> None:
    listed = ListDataset(
        [{**record, "image_id": f"x{i}"} for i, record in enumerate(store)], ["l"] * len(store)
    )
    both = joined([store, listed])
    assert both.image_ids().to_pylist() == [*store.image_ids().to_pylist(), *listed.image_ids().to_pylist()]
    assert both.sources().to_pylist() == ["both"] * len(store) + ["l"] * len(store)
    assert isinstance(both.plain(), list)  # which Detectron2's loaders filter


def test_dicts_that_lack_a_size_have_none_and_those_without_annotations_are_not_left_out() -> None:
    bare = ListDataset([{"file_name": "a.jpg", "image_id": 1}], ["bare"])
    assert bare.sizes() is None
    assert len(bare.annotated()) == 1
