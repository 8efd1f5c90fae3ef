"""The pipeline belongs to no host: on files alone it makes the artefacts that it makes inside Detectron2."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from coco_files import document, write_coco, write_image

from nds_plugin.errors import NDSError
from nds_plugin.experts.scoring import ScoringConfig
from nds_plugin.experts.train_network import ExpertConfig
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.host import Host
from nds_plugin.pipeline.selection_steps import SelectionSteps
from nds_plugin.pipeline.settings import PipelineSettings
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.source.partitioning import PartitionConfig

pytestmark = pytest.mark.slow

SOURCES, TARGET = ("tiny_street_train", "tiny_room_train"), "tiny_city_val"
# Their files hold the seconds that the client took, and what follows from them.
TIMED = ("scores-", "image_weights-", "selection-")


@pytest.fixture
def files(tiny_datasets: Path) -> FilesHost:
    """The tiny domains as COCO files, called as they are registered."""
    host = FilesHost()
    for name in (*SOURCES, TARGET):
        _, domain, split = name.split("_")
        folder = tiny_datasets / domain
        host.add_coco(folder / f"{split}.json", folder / "images", name)
    return host


def _settings(selector: str, unit: str) -> PipelineSettings:
    return PipelineSettings(
        SOURCES,
        (TARGET,),
        selection=SelectionConfig(SELECTORS[selector](), share=0.5),
        unit=unit,
        partition=PartitionConfig(num_clusters=2),
        experts=ExpertConfig(crop_size=32, steps=1, shared_steps=1, batch_size=2),
        scoring=ScoringConfig(num_workers=0),
    )


def _artefacts(settings: PipelineSettings, host: Host, folder: Path) -> tuple[object, dict[str, str]]:
    selected = SelectionSteps(settings, host, folder).run()
    files = {
        str(path.relative_to(folder)): ""
        if path.name.startswith(TIMED)
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return selected.selection.table, files


@pytest.mark.parametrize(("selector", "unit"), [("nds", "image"), ("gate", "object"), ("knn", "object")])
def test_a_host_of_files_makes_the_artefacts_of_detectron2(
    selector: str, unit: str, files: FilesHost, tmp_path: Path
) -> None:
    from nds_plugin.d2.data.host import DetectronHost

    settings = _settings(selector, unit)
    of_files = _artefacts(settings, files, tmp_path / "files")
    of_detectron2 = _artefacts(settings, DetectronHost(), tmp_path / "detectron2")
    assert of_files == of_detectron2
    assert any(name.startswith("selection-") for name in of_files[1])


def test_a_folder_of_images_is_a_target_like_any_other(
    files: FilesHost, tiny_datasets: Path, tmp_path: Path
) -> None:
    folder = files.add_folder(tiny_datasets / "city" / "images", "photos")
    settings = PipelineSettings(
        SOURCES[:1],
        (folder,),
        selection=SelectionConfig(NearestNeighbours(), count=5),
        experts=ExpertConfig(crop_size=32, shared_steps=1, batch_size=2),
    )
    selected = SelectionSteps(settings, files, tmp_path).run()
    assert len(selected.selection) == 5
    assert selected.selection.info["target_images"] == len(files.dataset(folder).index())


def test_masks_that_do_not_fit_their_images_are_refused(tmp_path: Path) -> None:
    content = document()
    image = content["images"][0]
    del image["width"], image["height"]
    write_image(tmp_path / image["file_name"], 64, 48)
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [0, 48 * 64]}
    host = FilesHost()
    host.dataset(host.add_coco(write_coco(tmp_path, content, "fits.json"), tmp_path, "fits")).check()
    content["annotations"][0]["segmentation"] = {"size": [24, 32], "counts": [0, 24 * 32]}
    found = host.dataset(host.add_coco(write_coco(tmp_path, content, "small.json"), tmp_path, "small"))
    with pytest.raises(NDSError, match="b.jpg: 1 of its 3 annotations .*expected 64 x 48, got 32 x 24"):
        found.check()


def test_a_name_is_taken_once_and_an_unknown_one_is_told(files: FilesHost, tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="there is a dataset 'tiny_city_val' already"):
        files.add_folder(tmp_path, TARGET)
    with pytest.raises(NDSError, match="unknown dataset 'nowhere'"):
        files.dataset("nowhere")


@pytest.mark.parametrize(("num_images", "seed"), [(0, 0), (-5, 0), (3, -1)])
def test_a_draw_of_no_images_or_by_a_negative_seed_is_refused(
    num_images: int, seed: int, files: FilesHost
) -> None:
    with pytest.raises(NDSError, match=f"images > 0 and seed >= 0, got {num_images} and {seed}"):
        files.subset(TARGET, num_images, seed)


def test_a_name_that_files_do_not_have_is_asked_of_the_framework(tiny_datasets: Path) -> None:
    from nds_plugin.commands.hosts import files_host
    from nds_plugin.d2.data.registration import index_dataset

    assert files_host().dataset(TARGET).index().hash == index_dataset(TARGET).hash
    with pytest.raises(NDSError, match=r"unknown dataset 'tiny_city_vall'.*Did you mean"):
        files_host().dataset("tiny_city_vall")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, r"NDS\.SOURCE\.DATASETS is empty"),
        ({"unit": "box"}, r"unknown NDS\.UNIT 'box'"),
        (
            {"selection": SelectionConfig(NearestNeighbours, count=5)},
            "give the selector knn with its settings",
        ),
        (
            {"partition": PartitionConfig(weights="nowhere.pth")},
            r"NDS\.PARTITION\.WEIGHTS: no such file: nowhere\.pth",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object], message: str) -> None:
    values = {"sources": SOURCES, "targets": (TARGET,), "selection": SelectionConfig(share=0.5)}
    with pytest.raises(NDSError, match=message):
        PipelineSettings(**{**values, **changes})  # type: ignore[arg-type]
