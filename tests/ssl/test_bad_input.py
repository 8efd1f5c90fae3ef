"""What the job refuses, each in one line, before it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imagenet_trees import write_tree
from ssl_jobs import write_folders, write_images

from nds_plugin.errors import NDSError
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
from nds_plugin.ssl.pixels import check_packed, decode, packed_rows, replaced


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("ssl"))


def refused(config: Path, tmp_path: Path, *changes: str) -> str:
    with pytest.raises(NDSError) as caught:
        MainJob(load_config(str(config), ["OUTPUT_DIR", str(tmp_path / "run"), *changes])).run()
    text = str(caught.value)
    assert "\n" not in text
    assert not (tmp_path / "run/pretrain").exists()
    return text


def test_a_target_without_classes(config: Path, tmp_path: Path) -> None:
    text = refused(config, tmp_path, "NDS.TARGET.TRAIN", "('source',)")
    assert "dataset 'source' has no classes" in text


def test_a_class_of_one_image(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    write_images(tmp_path / "data/target/eel", 1, 5)
    assert "1 classes have a single image (eel)" in refused(config, tmp_path)


def test_a_batch_larger_than_the_queue(config: Path, tmp_path: Path) -> None:
    text = refused(config, tmp_path, "PRETRAIN.QUEUE", "4")
    assert "PRETRAIN.BATCH_SIZE 8 is larger than PRETRAIN.QUEUE 4" in text
    assert "multiple" in refused(config, tmp_path, "PRETRAIN.QUEUE", "12")


def test_a_source_of_another_size(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((3, 64, 64, 3), dtype=np.uint8))
    names = [f"{tmp_path}/rows.npy#{i}" for i in range(3)]
    with pytest.raises(NDSError, match=r"images are 64 x 64 pixels .* but PRETRAIN.SIZE is 32"):
        check_packed(names, 32)
    check_packed(names, 64)
    check_packed(["photo.jpg"], 32)
    assert packed_rows([*names, "photo.jpg"]) is None
    assert len(packed_rows(names) or ()) == 3


def test_a_source_of_another_size_is_refused_before_it_is_selected_from(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "datasets", 32, "npz")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    source = ["NDS.SOURCE.DATASETS", "('downsampled_imagenet_32_train',)", "PRETRAIN.SIZE", "64"]
    assert "images are 32 x 32 pixels" in refused(config, tmp_path, *source)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["PRETRAIN.METOD", "moco"], "Did you mean"),
        (["PRETRAIN.METHOD", "simclr"], "unknown PRETRAIN.METHOD 'simclr'"),
        (["PRETRAIN.ITERATIONS", "0"], "PRETRAIN.ITERATIONS must be 1 or more"),
        (["PRETRAIN.BASE_LR", "fast"], "PRETRAIN.BASE_LR must be a number"),
        (["NDS.SELECTOR", "best"], "NDS.SELECTOR"),
        (["NDS.SOURCE.DATASETS", "('nowhere',)"], "unknown dataset 'nowhere'"),
        (["NDS.TARGET.TEST", "()"], "TRAIN and TEST"),
        (["MODEL.DEPTH", "34"], "18 or 50"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "no such file"),
        (["PRETRAIN.BN_GROUPS", "3"], "cannot be cut into 3 groups"),
        (["DEVICE", "tpu"], "unknown device"),
        (["FINETUNE"], "not a pair"),
    ],
)
def test_a_mistake_in_the_config(config: Path, tmp_path: Path, changes: list[str], told: str) -> None:
    assert told in refused(config, tmp_path, *changes)


def test_a_folder_that_names_a_variable_that_is_not_set(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(
        f"_BASE_: {config}\nFOLDERS:\n  source: {{FOLDER: $NOT_SET_ANYWHERE/x}}\n", encoding="utf-8"
    )
    assert "names an environment variable that is not set" in refused(other, tmp_path)


def test_a_config_that_is_based_on_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: a.yaml\n", encoding="utf-8")
    with pytest.raises(NDSError, match="based on itself"):
        load_config(str(tmp_path / "a.yaml"))


def test_an_image_that_cannot_be_read_is_replaced_by_one_of_its_cluster(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4, 0)
    broken = tmp_path / "photos/02.png"
    broken.write_bytes(b"no image")
    names = [str(path) for path in sorted((tmp_path / "photos").glob("*.png"))]
    found = decode(names, 16, tmp_path / "rows.npy", "photos")
    assert list(found) == [2]
    rows = replaced(4, [2], np.array([0, 1, 1, 0]), 7)
    assert rows.tolist() == [0, 1, 1, 3]


def test_more_broken_images_than_allowed_stop_the_job(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    for path in (tmp_path / "data/source").glob("*.png"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    assert "cannot be read, more than NDS.LOADER.MAX_UNREADABLE" in refused(config, tmp_path)


def test_a_broken_image_of_the_target_is_told_before_pretraining(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    path = tmp_path / "data/target/bee/01.png"
    path.write_bytes(path.read_bytes()[:-40])
    text = refused(config, tmp_path)
    assert "target_train: 1 of 12 images cannot be read, and none may be missing" in text
    assert str(path) in text


def test_a_selection_smaller_than_a_batch(config: Path, tmp_path: Path) -> None:
    text = refused(config, tmp_path, "NDS.BUDGET.IMAGES", "7")
    assert "the selection has 7 images, fewer than PRETRAIN.BATCH_SIZE 8" in text


def test_a_schedule_of_steps_without_a_step(config: Path, tmp_path: Path) -> None:
    text = refused(config, tmp_path, "PRETRAIN.SCHEDULE", "steps")
    assert text == "pretraining: SCHEDULE steps needs STEPS, the iterations at which it steps."


def test_what_may_be_meant_is_done_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_folders(tmp_path / "data")
    (tmp_path / "data/target/dog").mkdir()
    changes = ["NDS.TARGET.TEST", "('target_train',)", "FINETUNE.ITERATIONS", "1", "PRETRAIN.ITERATIONS", "1"]
    MainJob(load_config(str(config), ["OUTPUT_DIR", str(tmp_path / "run"), *changes])).run()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0] == "folder 'target_train': no image in 1 of its folders, which make no class: dog"
    assert told[1].startswith("12 of 12 test images are training images, too")
    assert told[2].startswith("PRETRAIN.QUEUE 16 is larger than the selection of 12 images")
