"""Images without an annotated object: one rule for the tools, the main job and the loader."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from as_user import User
from tiny_experts import write_domain

from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.data.loader import build_nds_train_loader
from nds_plugin.d2.data.registration import index_dataset, registered_temporarily
from nds_plugin.d2.job.main_job import selection_steps
from nds_plugin.datasets.coco.split import index_coco
from nds_plugin.errors import NDSError
from nds_plugin.job.selection_summary import Timings
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.uniform import Full
from nds_plugin.source.index import NO_LABEL, ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

NAME = "test_empty_images_train"
EMPTY = 3


@pytest.fixture(scope="module")
def dataset(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset of 24 images, of which one lacks annotations and two have a crowd alone; its json file."""
    document = json.loads((tiny_datasets / "street/train.json").read_text())
    first, *crowds = [image["id"] for image in document["images"][:EMPTY]]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != first]
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] in crowds)
    path = tmp_path_factory.mktemp("empty") / "train.json"
    path.write_text(json.dumps(document))
    with registered_temporarily(NAME, json_file=str(path), image_root=str(tiny_datasets / "street/images")):
        yield path


def _partitioned(user: User, output: Path, *arguments: object) -> SourceIndex:
    quick = ("--crop-size", "32", "--shared-steps", "1", "--shared-batch", "2", "--num-workers", "0")
    user.runs("partition_source", *arguments, *quick, "--num-clusters", "2", "--output", output)
    return SourceIndex.load(output / "index.parquet")


def _job(folder: Path, *extra: str) -> SourceIndex:
    options = ["OUTPUT_DIR", str(folder), "NDS.SOURCE.DATASETS", f"('{NAME}',)", *extra]
    return selection_steps(load_config("nds_sample.yaml", options), Timings()).source.index()


@pytest.mark.slow
def test_the_tool_and_the_main_job_index_the_same_images(
    dataset: Path, tmp_path: Path, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    by_tool = _partitioned(user, tmp_path / "tool", "--dataset", NAME)
    assert len(by_tool) == 24 - EMPTY
    assert "3 of 24 images have no annotated object and are left out" in caplog.text
    assert by_tool.hash == _job(tmp_path / "job").hash
    kept = _partitioned(user, tmp_path / "kept", "--dataset", NAME, "--keep-empty")
    assert len(kept) == 24
    assert kept.hash == _job(tmp_path / "all", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False").hash


@pytest.mark.usefixtures("dataset")
def test_what_is_drawn_is_what_is_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for index, left_out in ((_job(tmp_path), 0), (index_dataset(NAME), EMPTY)):
        selection = select(index, Partition.whole(index), SelectionConfig(Full()))
        caplog.clear()
        loader = build_nds_train_loader(
            dataset=NAME, mapper=dict, total_batch_size=1, selection=selection, aspect_ratio_grouping=False
        )
        assert len(selection) - left_out == 24 - EMPTY == len(loader.dataset)
        told = "3 of the 24 selected images are not trained on: they have no instance"
        assert (told in caplog.text) == bool(left_out)


def test_a_folder_keeps_its_images_beside_an_annotated_source(
    dataset: Path, tiny_datasets: Path, tmp_path: Path, user: User
) -> None:
    write_domain(tmp_path / "photos", 5, bright_top=True)
    coco = ("--coco", dataset, tiny_datasets / "street/images")
    index = _partitioned(user, tmp_path / "out", *coco, "--folder", tmp_path / "photos")
    sources, counts = np.unique(index.column("source").astype(str), return_counts=True)
    assert dict(zip(sources.tolist(), counts.tolist()))["photos"] == 5
    assert len(index) == 5 + 24 - EMPTY


def test_the_rule_is_per_source_and_keeps_the_order() -> None:
    labels = {"a": [0, NO_LABEL, 1], "b": [NO_LABEL, NO_LABEL], "c": [1, 1]}
    records = [
        ImageRecord(source, str(i), f"{source}{i}", label=label)
        for source, own in labels.items()
        for i, label in enumerate(own)
    ]
    index = SourceIndex.from_records(records, ["x", "y"])
    assert index.bare_sources == ["b"]
    kept = index.annotated()
    assert kept.column("file_name").tolist() == ["a0", "a2", "b0", "b1", "c0", "c1"]
    assert kept.annotated() is kept


def test_annotations_of_which_none_is_usable_are_told_once(
    dataset: Path, tiny_datasets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would pass for a source without annotations, until the main job refuses it."""
    document = json.loads(dataset.read_text())
    for name, change in (("crowds", {"iscrowd": 1}), ("flat", {"bbox": [5, 5, 0, 0]}), ("none", None)):
        own = [{**a, **change} for a in document["annotations"]] if change else []
        (tmp_path / f"{name}.json").write_text(json.dumps({**document, "annotations": own}))
        caplog.clear()
        index_coco(tmp_path / f"{name}.json", tiny_datasets / "street/images", name)
        told = [r.getMessage() for r in caplog.records if "has an annotated object" in r.getMessage()]
        assert len(told) == bool(change)
        count = len(own)
        counts = {"crowds": f"{count} are crowds, and 0 have", "flat": f"0 are crowds, and {count} have"}
        assert not told or (f"{name}: none of its 24 images has" in told[0] and counts[name] in told[0])


def test_the_main_job_refuses_a_source_without_any_annotated_object(
    dataset: Path, tiny_datasets: Path, tmp_path: Path
) -> None:
    document = json.loads(dataset.read_text())
    document["annotations"] = [{**a, "iscrowd": 1} for a in document["annotations"]]
    (tmp_path / "bare.json").write_text(json.dumps(document))
    images = str(tiny_datasets / "street/images")
    with (
        registered_temporarily("test_bare_train", json_file=str(tmp_path / "bare.json"), image_root=images),
        pytest.raises(NDSError, match="none of the 24 images of test_bare_train has an annotated object"),
    ):
        _job(tmp_path, "NDS.SOURCE.DATASETS", f"('{NAME}', 'test_bare_train')")
