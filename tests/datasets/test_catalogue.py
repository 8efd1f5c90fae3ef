from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from as_user import ROOT

from nds_plugin.datasets.catalogue import DATASETS, find, find_split, select
from nds_plugin.datasets.preparing.pages import BEGIN, END, catalogue_markdown, with_catalogue
from nds_plugin.datasets.public import MissingFilesError
from nds_plugin.errors import NDSError, UnknownNameError

# Table 3 of the paper: title, role, classes, images of the splits in its order (training, validation or test).
TABLE_3 = [
    ("Downsampled ImageNet", "source", [1000], [1_281_167]),
    ("OpenImages", "source", [601, 300], [1_743_042]),
    ("COCO", "source", [80], [118_287]),
    ("VOC2007", "target", [20], [5_011, 4_962]),
    ("miniModaNet", "target", [13], [1_000, 1_000]),
    ("Cityscapes", "target", [8], [2_975, 500]),
    ("Stanford Dogs", "target", [120], [12_000, 8_580]),
    ("Stanford Cars", "target", [196], [8_144, 8_041]),
    ("Oxford-IIIT Pets", "target", [37], [3_680, 3_369]),
    ("Flowers 102", "target", [102], [2_040, 6_149]),
    ("CUB200 Birds", "target", [200], [5_994, 5_794]),
]
SPLITS = [split for dataset in DATASETS for split in dataset.splits]


def test_the_catalogue_is_table_3_of_the_paper() -> None:
    found = []
    for dataset in DATASETS:
        classes = [int(number) for number in re.findall(r"\d+", dataset.paper_classes)]
        # Downsampled ImageNet is published in two sizes, of the same images
        counts = [split.paper_images for split in dataset.splits if split.paper_images is not None]
        images = list(dict.fromkeys(counts)) if len(counts) > 1 and dataset.role == "source" else counts
        found.append((dataset.title, dataset.role, classes, images))
    assert found == TABLE_3


def test_every_difference_between_paper_and_provider_is_explained() -> None:
    for split in SPLITS:
        if split.paper_images is not None and split.images is not None and split.paper_images != split.images:
            assert split.note, split.name


def test_names_are_unique_and_found() -> None:
    names = [*(dataset.key for dataset in DATASETS), *(split.name for split in SPLITS)]
    assert len(set(names)) == len(names)
    assert all(find(dataset.key) is dataset for dataset in DATASETS)
    assert all(find_split(split.name) is split for split in SPLITS)
    assert find_split("nope") is None
    with pytest.raises(UnknownNameError, match="unknown dataset 'cocos'. Did you mean 'coco'"):
        find("cocos")


def test_datasets_and_splits_are_selected_by_name_in_the_catalogues_order() -> None:
    assert select([]) == select(["all"]) == [(dataset, list(dataset.splits)) for dataset in DATASETS]
    chosen = select(["stanford_dogs", "nds_coco_2017_val", "stanford_dogs_test"])
    assert [(dataset.key, [split.split for split in splits]) for dataset, splits in chosen] == [
        ("coco", ["val"]),
        ("stanford_dogs", ["train", "test"]),
    ]
    with pytest.raises(
        NDSError, match="unknown dataset 'nds_coco_2017_vall'. Did you mean 'nds_coco_2017_val'"
    ):
        select(["coco", "nds_coco_2017_vall"])


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_a_split_that_is_not_there_says_what_is_expected_where(split, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    dataset = next(dataset for dataset in DATASETS if split in dataset.splits)
    with pytest.raises(MissingFilesError) as caught:
        split.spec(tmp_path).inputs()
    message, error = str(caught.value), pickle.loads(pickle.dumps(caught.value))
    assert message.startswith(f"{dataset.title}: {tmp_path}/")
    assert dataset.page in message
    assert (str(error), error.missing) == (message, caught.value.missing)
    assert not caught.value.missing.exists()
    assert "\n" not in message


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_looking_for_a_split_writes_nothing(split, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spec = split.spec(tmp_path)
    assert spec.name == split.name
    assert spec.path == tmp_path / "nds_stores" / f"{split.name}.arrow"
    assert split.image_root(tmp_path).is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())


def test_coco_is_registered_with_detectron2s_own_metadata() -> None:
    from detectron2.data import MetadataCatalog

    import nds_plugin.d2  # noqa: F401

    own, ours = MetadataCatalog.get("coco_2017_train"), MetadataCatalog.get("nds_coco_2017_val")
    assert ours.thing_classes == own.thing_classes
    assert ours.thing_colors == own.thing_colors
    assert ours.thing_dataset_id_to_contiguous_id == own.thing_dataset_id_to_contiguous_id
    assert ours.evaluator_type == "coco"


def test_the_page_on_datasets_holds_what_the_catalogue_holds() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert page == with_catalogue(page), "run: python -m nds_plugin.datasets.preparing.pages docs/datasets.md"
    for dataset in DATASETS:
        assert f"### {dataset.title}\n" in page
        assert dataset.page in page


def test_the_page_is_written_between_its_marks_only(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    command = [sys.executable, "-m", "nds_plugin.datasets.preparing.pages", str(path)]
    subprocess.run(command, check=True, cwd=ROOT)
    page = path.read_text(encoding="utf-8")
    assert page == f"before\n{BEGIN}\n\n{catalogue_markdown()}\n\n{END}\nafter\n"
    with pytest.raises(NDSError, match="the page must hold the lines"):
        with_catalogue("nothing")
