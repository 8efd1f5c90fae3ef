"""The index of a COCO file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import document, write_coco, write_image

from nds_plugin.datasets.coco.split import index_coco
from nds_plugin.datasets.store_index import main_classes
from nds_plugin.source.folder import check_files
from nds_plugin.source.index import NO_LABEL
from nds_plugin.source.source_names import coco_name


@pytest.mark.parametrize("licence", [[], {}, [7]])
def test_a_licence_that_is_no_id_is_none(tmp_path: Path, licence: Any) -> None:
    content = document()
    content["images"][0]["license"] = licence
    content["licenses"].append({"id": licence, "name": "x"})
    index = index_coco(write_coco(tmp_path, content), tmp_path)
    assert index.column("license").tolist() == ["", "", ""]


def test_index_holds_the_main_class_link_and_licence(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "tiny" / "annotations", document())
    index = index_coco(path, tmp_path / "images")
    assert index.sources == ["tiny_train"]
    assert index.classes == ("cat", "dog")
    assert index.column("image_id").tolist() == ["3", "12", "20"]
    # Image 3: the crowd of cats is larger, but does not count. Image 12: two small cats beat a dog.
    assert index.column("label").tolist() == [1, 0, NO_LABEL]
    assert index.column("url").tolist() == ["http://f/a", "http://x/b", ""]
    assert index.column("license").tolist() == ["", "CC BY 4.0", ""]
    assert index[0].file_name == str(tmp_path / "images" / "a.jpg")
    assert (index[0].width, index[0].height) == (60, 40)


def test_index_needs_no_annotations_and_takes_the_box_for_a_missing_area(tmp_path: Path) -> None:
    content = document()
    for annotation in content["annotations"]:
        del annotation["area"]
    labels = index_coco(write_coco(tmp_path, content), tmp_path).column("label").tolist()
    assert labels == [1, 0, NO_LABEL]
    bare = {"images": content["images"]}
    index = index_coco(write_coco(tmp_path, bare), tmp_path, source="unlabelled")
    assert index.column("label").tolist() == [NO_LABEL] * 3
    assert index.sources == ["unlabelled"]


def test_coco_name_names_dataset_and_split() -> None:
    assert coco_name("coco/annotations/instances_train2017.json") == "coco_instances_train2017"
    assert coco_name("/data/ccp/train.json") == "ccp_train"
    assert coco_name("/train.json") == "train"


def test_main_classes_agree_with_a_plain_loop() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    images, classes = rng.integers(0, 40, 300), rng.integers(0, 6, 300)
    areas = rng.integers(1, 4, 300).astype(np.float64)  # small whole numbers: many ties
    expected = []
    for image in range(50):
        sums = np.bincount(classes[images == image], areas[images == image], minlength=6)
        expected.append(int(sums.argmax()) if sums.any() else NO_LABEL)
    assert main_classes(images, classes, areas, 50).tolist() == expected
    empty = np.zeros(0)
    assert main_classes(empty.astype(int), empty.astype(int), empty, 2).tolist() == [NO_LABEL] * 2


def test_missing_files_are_listed_in_index_order(tmp_path: Path) -> None:
    index = index_coco(write_coco(tmp_path, document()), tmp_path / "images")
    everything = [str(tmp_path / "images" / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert check_files(index) == everything
    write_image(tmp_path / "images" / "b.jpg")
    assert check_files(index) == [everything[0], everything[2]]
    assert check_files(index, sample=2) == [everything[0], everything[2]]
    assert check_files(index, sample=10) == [everything[0], everything[2]]
    assert check_files(index, sample=1) == [everything[0]]


def test_reading_and_indexing_need_neither_torch_nor_detectron2() -> None:
    code = (
        "import sys, nds_plugin.datasets.coco.split, nds_plugin.datasets.label_space;"
        "import nds_plugin.datasets.cityscapes.split;"
        "assert not {'torch', 'detectron2', 'pycocotools'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_real_files_are_indexed_whole(nds_data: Path) -> None:
    folder = nds_data / "detection" / "coco_mini"
    index = index_coco(folder / "train.json", folder / "images")
    assert len(index) == len(json.loads((folder / "train.json").read_text())["images"])
    assert len(index.classes) == 80
    assert check_files(index) == []
    assert index.column("label").max() < 80


def test_an_absolute_file_name_is_taken_as_detectron2_takes_it(tmp_path: Path) -> None:
    """As ``os.path.join`` does: in the index, in the dicts of the main job, and in its evaluation."""
    from detectron2.data.datasets import load_coco_json

    from nds_plugin.d2.data.registration import dataset_dicts, index_dataset, registered_temporarily

    content = document()
    write_image(tmp_path / "far" / "b.jpg")
    write_image(tmp_path / "images" / "a.jpg", 60, 40)
    write_image(tmp_path / "images" / "c.jpg")
    content["images"][0]["file_name"] = str(tmp_path / "far" / "b.jpg")
    path = write_coco(tmp_path, content)
    index = index_coco(path, tmp_path / "images")
    assert check_files(index) == []
    with registered_temporarily("absolute", json_file=str(path), image_root=str(tmp_path / "images")):
        names = [record["file_name"] for record in dataset_dicts("absolute")]
        assert names == list(index.column("file_name")) == list(index_dataset("absolute").column("file_name"))
    stock = [record["file_name"] for record in load_coco_json(str(path), str(tmp_path / "images"))]
    assert sorted(names) == sorted(stock)
