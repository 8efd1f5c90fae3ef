"""What the job refuses, each in one line, before it trains."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from imagenet_trees import write_tree
from ssl_jobs import write_folders, write_images

from nds_plugin.commands.train_ssl import main
from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.job import taking_turns
from nds_plugin.pipeline.selection_steps import SelectionSteps
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob
from nds_plugin.ssl.pixels import check_packed, decode, packed_rows, replaced
from nds_plugin.ssl.pretrain import check_pretraining
from nds_plugin.ssl.settings import PretrainConfig


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
    assert "(target_train): 1 classes have fewer than 2 images (eel: 1)" in refused(config, tmp_path)


def test_a_class_without_a_training_image(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    write_images(tmp_path / "data/target/eel", 2, 5)  # too few for one in the part test
    swapped = ["NDS.TARGET.TRAIN", "('target_test',)", "NDS.TARGET.TEST", "('target_train',)"]
    assert "1 classes have fewer than 2 images (eel: 0)" in refused(config, tmp_path, *swapped)


def test_the_images_of_all_training_datasets_count_together(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    for i, folder in enumerate(("one", "two")):
        for name in ("ape", "bee", "cow"):
            write_images(tmp_path / "data" / folder / name, 1, 20 + i)
    both = tmp_path / "both.yaml"
    folders = "".join(f"  {name}: {{FOLDER: {tmp_path}/data/{name}}}\n" for name in ("one", "two"))
    both.write_text(f"_BASE_: {config}\nFOLDERS:\n{folders}", encoding="utf-8")
    words = ["OUTPUT_DIR", str(tmp_path / "run"), "NDS.SELECTOR", "none", "FINETUNE.ITERATIONS", "1"]
    found = MainJob(load_config(str(both), [*words, "NDS.TARGET.TRAIN", "('one', 'two')"])).run()
    assert found["summary"]["images"] == 6
    assert "(ape: 1, bee: 1, cow: 1)" in refused(both, tmp_path, "NDS.TARGET.TRAIN", "('one',)")


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
        (["NDS.LOADER.MAX_UNREADABLE", "1.5"], "NDS.LOADER.MAX_UNREADABLE must be 0 to 1, got 1.5"),
        (["NDS.SOURCE.DATASETS", "('nowhere',)"], "unknown dataset 'nowhere'"),
        (["NDS.SELECTOR", "snds", "NDS.SNDS.DATASETS", "('nowhere',)"], "unknown dataset 'nowhere'"),
        (["NDS.SNDS.DATASETS", "(5,)"], "NDS.SNDS.DATASETS must be a list of names of datasets, got 5"),
        (["NDS.TARGET.TEST", "()"], "TRAIN and TEST"),
        (["MODEL.DEPTH", "34"], "18 or 50"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "no such file"),
        (["PRETRAIN.BN_GROUPS", "3"], "PRETRAIN.BATCH_SIZE 8 cannot be cut into 3 groups"),
        (["DEVICE", "tpu"], "unknown device"),
        (["PRETRAIN.PRECISION", "fp16"], "PRETRAIN.PRECISION: precision 'fp16' needs a GPU"),
        (["FINETUNE.PRECISION", "fp16"], "FINETUNE.PRECISION: precision 'fp16' needs a GPU"),
        (["SEED", str(2**70)], "SEED must be 0 or more and below 2^63"),
        (["NDS.TARGET.TRAIN", "(5,)"], "NDS.TARGET.TRAIN must be a list of names of datasets, got 5"),
        (
            ["NDS.TARGET.TRAIN", "('target_train', 'target_train')"],
            "NDS.TARGET.TRAIN names target_train more than once",
        ),
        (["NDS.SOURCE.DATASETS", "(['source'],)"], "NDS.SOURCE.DATASETS must be a list of names of datasets"),
        (["FOLDERS.source.TEST_EVERY", "'2'"], "FOLDERS.source.TEST_EVERY must be a whole number, got '2'"),
        (["FOLDERS.source.TEST_EVERY", "2.5"], "FOLDERS.source.TEST_EVERY must be a whole number, got 2.5"),
        (["FOLDERS.source.FOLDER", "5"], "FOLDERS.source.FOLDER must be text, got 5"),
        (["FOLDERS.source.CLASSES", "['a', 'b']"], "FOLDERS.source.CLASSES must be text, got ['a', 'b']"),
        (["FOLDERS.source.PART", "None"], "FOLDERS.source.PART must be text, got None"),
        (["PRETRAIN.STEPS", "('a',)"], "PRETRAIN.STEPS must be iterations, whole numbers of 1 or more"),
        (
            ["FINETUNE.STEPS", "(-3,)"],
            "FINETUNE.STEPS must be iterations, whole numbers of 1 or more, got -3",
        ),
        (
            ["FINETUNE.WARMUP", "4"],
            "FINETUNE.WARMUP 4 must be shorter than the training, which has FINETUNE.ITERATIONS 4",
        ),
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


@pytest.mark.parametrize(("name", "part"), [("01", "train"), ("02", "test")])
def test_an_image_of_the_target_without_a_header_is_missed(tmp_path: Path, name: str, part: str) -> None:
    config = write_folders(tmp_path / "data")
    (tmp_path / f"data/target/bee/{name}.png").write_bytes(b"no image")
    text = refused(config, tmp_path)
    images = {"train": 12, "test": 6}[part]
    assert f"target_{part}: 1 of {images} images cannot be read, and none may be missing" in text
    assert f"first: bee/{name}.png (" in text


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ("NDS.BUDGET.IMAGES 7", 7),
        ("NDS.BUDGET.IMAGES 0 NDS.BUDGET.SHARE 0.1", 3),
        ("NDS.BUDGET.IMAGES 0 NDS.SELECTOR full", 30),
        ("NDS.BUDGET.IMAGES 0 NDS.MODE stream", 30),
    ],
)
def test_a_selection_smaller_than_a_batch_is_refused_before_experts_are_trained(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str, images: int
) -> None:
    monkeypatch.setattr(SelectionSteps, "_selection", lambda *_: pytest.fail("it was drawn"))
    size = ["PRETRAIN.BATCH_SIZE", "32", "PRETRAIN.QUEUE", "32"]
    text = refused(config, tmp_path, *size, *changes.split())
    assert f"the selection has {images} images, fewer than PRETRAIN.BATCH_SIZE 32" in text


def test_a_folder_with_a_key_that_there_is_not_is_refused_when_the_config_is_read() -> None:
    with pytest.raises(NDSError, match=r"FOLDERS\.birds: unknown key FOLDR\. Did you mean 'FOLDER'\?"):
        load_config("nds_moco_pets.yaml", ["FOLDERS", "{'birds': {'FOLDER': 'x', 'FOLDR': 'y'}}"])


def test_steps_that_the_schedule_would_never_take_are_refused() -> None:
    with pytest.raises(
        NDSError, match=r"PRETRAIN.STEPS \(100,\) are of the schedule steps, but PRETRAIN.SCHEDULE is cosine"
    ):
        PretrainConfig(steps=(100,))
    with pytest.raises(
        NDSError,
        match="PRETRAIN.STEPS 300 must be before the end of the training, which has PRETRAIN.ITERATIONS 300",
    ):
        PretrainConfig(schedule="steps", steps=(100, 300), iterations=300)
    assert PretrainConfig(schedule="steps", steps=(100, 299), iterations=300).steps == (100, 299)


def test_a_schedule_of_steps_without_a_step(config: Path, tmp_path: Path) -> None:
    text = refused(config, tmp_path, "PRETRAIN.SCHEDULE", "steps")
    assert text == "PRETRAIN.SCHEDULE steps needs PRETRAIN.STEPS, the iterations at which it steps."


def test_a_second_job_in_the_same_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_turns, "PATIENCE", 0.5)
    folder = tmp_path / "run"
    with (
        taking_turns.only_job_in(folder, OneProcess()),
        pytest.raises(NDSError, match=f"^another job runs in the output folder {folder}"),
    ):
        main([str(config), "OUTPUT_DIR", str(folder)])
    assert not (folder / "pretrain").exists()


def test_processes_that_torchrun_started_start_no_others(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("torchrun was started again"))
    with pytest.raises(NDSError, match="--num-gpus 2 under torchrun"):
        main([str(config), "--num-gpus", "2"])


def test_a_mistake_in_the_target_is_told_before_processes_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_folders(tmp_path / "data")
    (tmp_path / "data/target/dog").mkdir()  # is warned of, by the processes
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, command: started.append(command) or sys.exit())
    words = [str(config), "--num-gpus", "2", "OUTPUT_DIR", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(words)
    assert started[0][-4:] == ["--config", str(config), "OUTPUT_DIR", str(tmp_path / "run")]
    assert not caplog.records
    write_images(tmp_path / "data/target/eel", 1, 5)
    with pytest.raises(NDSError, match=r"1 classes have fewer than 2 images \(eel: 1\)"):
        main(words)
    assert len(started) == 1


def test_moco_without_groups_of_batch_norms_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_pretraining(PretrainConfig(bn_groups=1, method="rotnet"), 1)
    check_pretraining(PretrainConfig(bn_groups=2), 1)
    assert not caplog.records
    check_pretraining(PretrainConfig(bn_groups=1), 1)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("PRETRAIN.BN_GROUPS is 1")


def test_version_2_of_moco_at_the_temperature_of_version_1_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_pretraining(PretrainConfig(version=2, temperature=0.2), 1)
    check_pretraining(PretrainConfig(version=2, method="rotnet"), 1)
    assert not caplog.records
    check_pretraining(PretrainConfig(version=2), 1)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("is 0.07, that of version 1: the paper of version 2 takes 0.2.")


def test_what_may_be_meant_is_done_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_folders(tmp_path / "data")
    (tmp_path / "data/target/dog").mkdir()
    changes = ["NDS.TARGET.TEST", "('target_train',)", "FINETUNE.ITERATIONS", "1", "PRETRAIN.ITERATIONS", "1"]
    changes += ["FINETUNE.BATCH_SIZE", "13"]
    MainJob(load_config(str(config), ["OUTPUT_DIR", str(tmp_path / "run"), *changes])).run()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0] == "folder 'target_train': no image in 1 of its folders, which make no class: dog"
    assert told[1].startswith("FINETUNE.BATCH_SIZE 13 is larger than the 12 training images of the target")
    assert told[2].startswith("12 of 12 test images are training images, too")
    assert told[3].startswith("PRETRAIN.QUEUE 16 is larger than the selection of 12 images")


def test_a_preset_of_the_command_line_lies_over_the_file_and_under_the_other_keys() -> None:
    words = ["NDS.PRESET", "paper", "NDS.TEMPERATURE", "0.5"]
    nds = load_config("nds_mini.yaml", words).nds
    assert (nds.EXPERTS.KIND, nds.SCORING.METRIC, nds.PARTITION.NUM_CLUSTERS) == ("network", "accuracy", 50)
    assert nds.TEMPERATURE == 0.5
    assert load_config("nds_mini.yaml").nds.EXPERTS.KIND == "head"
