"""A list of dicts and a store of the same images are one shape: whatever is asked of both has one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from coco_files import document, write_coco
from detectron2.structures import BoxMode

from nds_plugin.d2.data.catalog import catalogued, joined
from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.list_dataset import ListDataset
from nds_plugin.d2.data.registration import dataset_dicts, index_dataset, raw_dicts, registered_temporarily
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.errors import NDSError

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 2}, "category_id 2, but the 2 thing_classes are numbered from 0 to 1"),
        ({"bbox_mode": None}, "has no 'bbox_mode'"),
        (
            {"segmentation": {"size": [4, 5], "counts": b""}},
            r"mask of size \[4, 5\], but the image has height and width \[8, 9\]",
        ),
    ],
)
def test_a_list_with_an_annotation_that_cannot_be_used_is_refused_by_image(
    change: dict[str, Any], message: str
) -> None:
    annotation = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, **change}
    annotation = {key: value for key, value in annotation.items() if value is not None}
    record = {"file_name": "x", "image_id": 7, "height": 8, "width": 9, "annotations": [annotation]}
    with registered_temporarily("listed", lambda: [record], thing_classes=["a", "b"]):
        for function in (dataset_dicts, raw_dicts, index_dataset):
            with pytest.raises(NDSError, match=f"dataset 'listed', image 7: .*{message}"):
                function("listed")
