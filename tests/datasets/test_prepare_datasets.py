"""A user's journey through tools/prepare_datasets.py, over small trees in the providers' layouts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from as_user import ROOT, User, cut, full_disk, litter, only_line
from classification_trees import BIRDS, TREES, cub_200, oxford_pets, photo, stanford_cars_whole, stanford_dogs
from coco_files import document
from voc_trees import pictures, write_voc

from nds_plugin.datasets.catalogue import DATASETS
from nds_plugin.datasets.preparing.checking import SAMPLE
from nds_plugin.store import AnnotationStore
from nds_plugin.store.records import RecordDecoder

TOOL = ROOT / "tools" / "prepare_datasets.py"


def coco(root: Path) -> Path:
    """COCO 2017, one small json for both splits, and their images."""
    content = document()
    for split in ("train", "val"):
        path = root / "coco" / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        for image in content["images"]:
            photo(root / "coco" / f"{split}2017" / image["file_name"], size=(image["width"], image["height"]))
    return root / "coco"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four datasets, COLUMNS of a terminal, and nothing that depends on this machine."""
    folder = tmp_path / "data"
    stanford_dogs(folder)
    stanford_cars_whole(folder)
    cub_200(folder)
    coco(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """The tool in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(TOOL), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ends(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out, err


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def builders(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a tool builds in."""
    children = psutil.Process(process.pid).children()
    return [
        c for c in children if c.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(c.cmdline())
    ]


def store(root: Path, name: str) -> Path:
    return root / "nds_stores" / f"{name}.arrow"


def records(path: Path) -> list[dict[str, Any]]:
    opened = AnnotationStore(path)
    decode = RecordDecoder(opened, "", 1, lambda name: (0, 0))
    return [decode(i) for i in range(len(opened))]


@pytest.fixture
def stuck(root: Path) -> Iterator[Path]:
    """An image of the birds that nobody has written yet: whoever opens it waits until it is freed."""
    path = sorted((root / "CUB_200_2011" / "images" / BIRDS[2]).iterdir())[0]
    aside = path.with_suffix(".aside")
    path.rename(aside)
    os.mkfifo(path)
    yield path
    if path.is_fifo():
        free(path)


def free(path: Path) -> None:
    """Let those go on that wait for the image, and put it in its place."""
    # Opened for reading, too, so that this does not wait for them.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.with_suffix(".aside").rename(path)
    os.close(descriptor)


# --check


def test_check_shows_where_it_looked_and_what_it_expected(root: Path, user: User) -> None:
    printed = user.runs("prepare_datasets", "--check")
    assert printed.startswith(f"DETECTRON2_DATASETS  {root}\nstores               {root}/nds_stores\n")
    for dataset in DATASETS:
        paragraph = printed.partition(f"\n{dataset.title}, {dataset.role}, {dataset.task}: ")[2].partition(
            "\n\n"
        )[0]
        assert f"\n    looked in {root}/" in paragraph
        assert dataset.page in paragraph
        found = dataset.key in ("coco", "stanford_dogs", "stanford_cars", "cub_200")
        assert paragraph.startswith("found\n" if found else "not found\n")
        tree = " ".join(f"expected: {dataset.tree}".split())
        assert (tree in " ".join(paragraph.split())) != found
        assert ("\n    download " in paragraph) != found
    assert "--build coco stanford_dogs stanford_cars cub_200" in printed


def rows(printed: str) -> dict[str, list[str]]:
    """The table's cells by the name of the split."""
    names = {split.name for dataset in DATASETS for split in dataset.splits}
    lines = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    return {words[0]: words[1:] for words in lines if words[0] in names}


def test_the_table_has_the_papers_counts_beside_those_found(root: Path, user: User) -> None:
    table = rows(user.runs("prepare_datasets", "--check"))
    assert set(table) == {split.name for dataset in DATASETS for split in dataset.splits}
    assert table["stanford_dogs_train"] == ["12,000", "6", "*~", "-"]
    assert table["flowers_102_test"] == ["6,149", "-", "-"]
    user.runs("prepare_datasets", "--build", "stanford_dogs")
    table = rows(user.runs("prepare_datasets", "--check"))
    assert table["stanford_dogs_train"] == ["12,000", "6", "*", "3", "*"]
    images = len(document()["images"])
    assert table["nds_coco_2017_train"][:3] == ["118,287", str(images), "*~"]


@pytest.mark.slow
def test_counts_without_a_store_say_what_was_counted(root: Path, user: User) -> None:
    printed = " ".join(user.runs("prepare_datasets", "--check", "stanford_dogs", "cub_200").split())
    assert (
        "~ no store yet; counted without reading the images: stanford_dogs_train (train_list.mat)" in printed
    )
    assert "cub_200_test (train_test_split.txt)" in printed
    user.runs("prepare_datasets", "--build", "stanford_dogs", "cub_200")
    assert "~" not in user.runs("prepare_datasets", "--check", "stanford_dogs", "cub_200")


def test_known_differences_from_the_paper_are_explained(root: Path, user: User) -> None:
    pets = oxford_pets(root)
    line = (pets / "annotations" / "test.txt").read_text().splitlines()[0]
    (pets / "annotations" / "test.txt").write_text("\n".join([line] * 3669))
    write_voc(root / "VOC2007", pictures()[:1], test=[pictures()[0].image_id])
    ids = [f"{i:06d}" for i in range(4952)]
    for i in ids:
        (root / "VOC2007" / "Annotations" / f"{i}.xml").touch()
    (root / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
    printed = " ".join(user.runs("prepare_datasets", "--check").split())
    assert re.search(r"\* oxford_pets_test: 3,669 images, as published; the paper prints 3,369\. \S", printed)
    assert re.search(
        r"\* nds_voc_2007_test: 4,952 images, as published; the paper prints 4,962\. \S", printed
    )
    assert "* stanford_dogs_train: 6 images, but 12,000 are published: not the whole dataset" in printed


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits_the_terminal(
    root: Path, user: User, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for arguments in (("--check",), ("--build", "all", "--jobs", "1")):
        for line in user.runs("prepare_datasets", *arguments).splitlines():
            unbreakable = re.search(r"/\S+$|--build [a-z_0-9 ]+$", line.strip())
            assert len(line) <= width or unbreakable, line


def test_what_is_there_in_part_is_told(root: Path, user: User) -> None:
    (root / "coco" / "annotations" / "instances_train2017.json").unlink()
    shutil.rmtree(root / "coco" / "val2017")
    printed = user.runs("prepare_datasets", "--check")
    assert "COCO, source, detection: found in part" in printed
    assert f"missing   {root}/coco/annotations/instances_train2017.json" in printed
    assert re.search(rf"problem +its images are not there:\s+{root}/coco/val2017", printed)


def test_images_that_are_gone_since_are_told(root: Path, user: User) -> None:
    user.runs("prepare_datasets", "--build", "cub_200")
    shutil.rmtree(root / "CUB_200_2011" / "images" / BIRDS[1])
    printed = " ".join(user.runs("prepare_datasets", "--check", "cub_200").split())
    assert re.search(r"problem \d of [34] sampled images are not there, first .*Black_footed", printed)
    assert SAMPLE > 7


def test_check_of_a_damaged_dataset_ends_with_an_error(root: Path, user: User) -> None:
    cut(root / "stanford_dogs" / "test_list.mat")
    line = user.fails("prepare_datasets", "--check")
    assert line == f"1 of {len(DATASETS)} datasets: stanford_dogs (damaged); see above."


def test_check_of_a_named_dataset_that_is_missing_ends_with_an_error(root: Path, user: User) -> None:
    assert "flowers_102 (not found)" in user.fails("prepare_datasets", "--check", "flowers_102", "cub_200")
    (root / "CUB_200_2011" / "classes.txt").unlink()
    assert "cub_200 (incomplete)" in user.fails("prepare_datasets", "--check", "cub_200")


def test_a_reader_of_the_output_may_stop_early(root: Path) -> None:
    command = f"{sys.executable} {TOOL} --check | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("DETECTRON2_DATASETS ")
    assert done.stderr == ""


# --build


def test_build_makes_every_store_that_can_be_made_and_again_does_nothing(root: Path, user: User) -> None:
    printed = user.runs("prepare_datasets", "--build", "all", "--jobs", "1")
    names = ["nds_coco_2017_train", "nds_coco_2017_val", "stanford_dogs_train", "stanford_dogs_test"]
    names += ["stanford_cars_train", "stanford_cars_test", "cub_200_train", "cub_200_test"]
    assert [line.split()[0] for line in printed.splitlines() if " built " in line] == names
    assert "not there: " in printed
    before = {name: store(root, name).stat().st_mtime_ns for name in names}
    printed = user.runs("prepare_datasets", "--build", "all", "--jobs", "1")
    assert printed.count(" up to date ") == len(names)
    assert {name: store(root, name).stat().st_mtime_ns for name in names} == before


@pytest.mark.slow
def test_stores_built_side_by_side_are_those_built_one_after_another(root: Path, user: User) -> None:
    names = ["cub_200_train", "cub_200_test", "stanford_dogs_train"]
    user.runs("prepare_datasets", "--build", *names, "--jobs", "1")
    one_by_one = [records(store(root, name)) for name in names]
    shutil.rmtree(root / "nds_stores")
    printed = user.runs("prepare_datasets", "--build", *names, "--jobs", "2")
    assert printed.count(" built ") == 3
    assert [records(store(root, name)) for name in names] == one_by_one


def test_root_stands_above_the_environment(
    root: Path, tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    user.runs("prepare_datasets", "--build", "cub_200_test", "--root", root)
    assert store(root, "cub_200_test").is_file()
    line = user.fails("prepare_datasets", "--build", "cub_200_test")
    assert re.search(r"no such folder of datasets: .*elsewhere; name .* DETECTRON2_DATASETS, or --root", line)
    line = user.fails("prepare_datasets", "--check", "--root", tmp_path / "nowhere")
    assert re.search(r"no such folder of datasets: .*nowhere; name .* by --root\.", line)


MISTAKES = {
    "unknown dataset": (
        ["--build", "cub200"],
        r"unknown dataset 'cub200'\. Did you mean .*'cub_200'.* Known: all, .*coco.*stanford_dogs",
    ),
    "unknown in check": (["--check", "nope"], r"unknown dataset 'nope'\. Known: all, "),
    "no verb": ([], r"command line: one of the arguments --list --check --build is required"),
    "both verbs": (["--check", "--build", "coco"], "argument --build: not allowed with argument --check"),
    "build of nothing": (["--build"], "argument --build: expected at least one argument"),
    "no jobs": (["--build", "coco", "--jobs", "0"], "--jobs must be at least 1, got 0"),
    "jobs in words": (["--build", "coco", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
    "not there": (
        ["--build", "flowers_102"],
        r"Flowers 102: .*setid\.mat is not there\. Expected below .*flowers-102/; .* Download 102flowers\.tgz",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(root: Path, user: User, case: str) -> None:
    arguments, message = MISTAKES[case]
    line = user.fails("prepare_datasets", *arguments)
    assert re.search(message, line), line


def test_build_of_all_where_nothing_is_ends_with_an_error(tmp_path: Path, user: User) -> None:
    line = user.fails("prepare_datasets", "--build", "all", "--root", tmp_path)
    assert line == "none of the datasets is there: --check shows where they are expected."


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_damaged_dataset_does_not_stop_the_others(root: Path, jobs: int) -> None:
    cut(root / "stanford_dogs" / "test_list.mat")
    (root / "coco" / "annotations" / "instances_val2017.json").write_text("{")
    shutil.rmtree(root / "stanford_cars")
    out, err = ends(start("--build", "all", "--jobs", jobs, "--root", root), status=2)
    assert store(root, "nds_coco_2017_train").is_file()
    assert store(root, "cub_200_test").is_file()
    printed = " ".join(out.split())
    assert re.search(r"! nds_coco_2017_val: .*instances_val2017\.json", printed)
    assert re.search(r"! stanford_dogs_train, stanford_dogs_test: .*test_list\.mat: cut short", printed)
    assert re.search(
        r"3 of \d+ stores were not built: nds_coco_2017_val, stanford_dogs_train, ", only_line(err)
    )


def test_a_full_disk_is_one_line_and_leaves_nothing_half(root: Path, user: User) -> None:
    with full_disk(2000):
        line = user.fails("prepare_datasets", "--build", "cub_200_train", "--jobs", "1")
    assert re.search(r"disk full while writing .*cub_200_train", line), line
    assert not store(root, "cub_200_train").exists()
    assert not litter(root)
    user.runs("prepare_datasets", "--build", "cub_200_train", "--jobs", "1")


def test_the_stores_of_a_read_only_root_lie_in_the_cache(
    root: Path, tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:  # who may write everywhere; the rest is real
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(root)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root.chmod(0o555)
    try:
        user.runs("prepare_datasets", "--build", "cub_200", "--jobs", "1")
        assert "found, stores built" in user.runs("prepare_datasets", "--check", "cub_200")
    finally:
        root.chmod(0o755)
    assert not (root / "nds_stores").exists()
    found = sorted(path.name for path in (tmp_path / "cache" / "nds_plugin").rglob("*.arrow"))
    assert found == ["cub_200_test.arrow", "cub_200_train.arrow"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_that_was_killed_is_finished_by_the_next(root: Path, stuck: Path, jobs: int) -> None:
    names = ("cub_200_train", "cub_200_test")
    process = start("--build", *names, "--jobs", jobs, "--root", root)
    stopped_at = "cub_200_train"
    scratch = store(root, stopped_at).with_name(f".{stopped_at}.arrow.scratch")
    wait_for(scratch.is_dir)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not store(root, stopped_at).exists()
    psutil.wait_procs(children, timeout=20)
    free(stuck)
    out, _ = ends(start("--build", *names, "--root", root))
    assert re.search(rf"{stopped_at} +built", out)
    assert not scratch.exists()
    killed = [records(store(root, name)) for name in names]
    shutil.rmtree(root / "nds_stores")
    ends(start("--build", *names, "--jobs", "1", "--root", root))
    assert [records(store(root, name)) for name in names] == killed


def test_two_builders_at_once_build_one_store(root: Path, stuck: Path) -> None:
    first = start("--build", "cub_200_train", "--root", root)
    wait_for(store(root, "cub_200_train").with_name(".cub_200_train.arrow.scratch").is_dir)
    second = start("--build", "cub_200_train", "--root", root)
    heard = second.stderr.readline() if second.stderr else ""
    assert "another process is making" in heard
    free(stuck)
    out, err = ends(first)
    assert "building its annotation store" in err
    _, err = ends(second)
    assert "building its annotation store" not in err
    assert re.search(r"cub_200_train +built +4 +4 ", out)


def test_a_process_that_is_killed_from_outside_is_told_and_the_others_are_built(
    root: Path, stuck: Path
) -> None:
    process = start("--build", "cub_200_train", "stanford_dogs_train", "--jobs", 2, "--root", root)
    wait_for(store(root, "cub_200_train").with_name(".cub_200_train.arrow.scratch").is_dir)
    wait_for(store(root, "stanford_dogs_train").is_file)
    wait_for(lambda: len(builders(process)) == 1)
    builders(process)[0].kill()
    out, err = ends(process, status=2)
    assert re.search(r"stanford_dogs_train +built", out)
    assert "its process ended by signal 9, perhaps for want of memory" in only_line(err)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_all_processes_in_one_line_and_leaves_no_scratch(
    root: Path, stuck: Path, jobs: int
) -> None:
    names = ("cub_200_train", "stanford_dogs_train")
    process = start("--build", *names, "--jobs", jobs, "--root", root, start_new_session=True)
    scratch = store(root, "cub_200_train").with_name(".cub_200_train.arrow.scratch")
    wait_for(scratch.is_dir)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    free(stuck)
    _, err = ends(process, status=130)
    assert err.rstrip().endswith("interrupted: start again to go on, what is finished is kept.")
    assert "Traceback" not in err
    assert not scratch.exists()


@pytest.mark.slow
def test_datasets_whose_readers_need_no_torch_are_prepared_without_it(root: Path) -> None:
    oxford_pets(root)
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None, detectron2=None); "
        "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(TOOL), *arguments, "--jobs", "1"]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("--check").returncode == 0
    done = run("--build", "stanford_dogs", "stanford_cars", "cub_200", "coco")
    assert done.returncode == 0, done.stderr
    done = run("--build", "oxford_pets_test")
    assert done.returncode == 2
    assert "reading OxfordIIITPet needs the package torchvision" in only_line(done.stderr)


def test_all_trees_of_the_classification_targets_are_built_together(tmp_path: Path, user: User) -> None:
    for make in TREES.values():
        make(tmp_path)
    printed = user.runs("prepare_datasets", "--build", *TREES, "--root", tmp_path, "--jobs", "1")
    assert printed.count(" built ") == 10
    assert (
        user.runs("prepare_datasets", "--check", *TREES, "--root", tmp_path).count("found, stores built") == 5
    )
