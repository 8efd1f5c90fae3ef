"""Names of sources: derived from their path, told apart, or given; never shared unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from as_user import User
from coco_files import document, write_coco, write_image

from nds_plugin.errors import NDSError
from nds_plugin.source.folder import index_folder
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.source_names import name_sources


@pytest.mark.parametrize(
    ("cocos", "folders", "expected"),
    [
        (["projA/train/_annotations.coco.json"], [], ["train__annotations.coco"]),
        (["a/train/x.json", "b/train/x.json"], [], ["a_train_x", "b_train_x"]),
        (["a/v1/train/x.json", "b/v1/train/x.json"], [], ["a_train_x", "b_train_x"]),
        (
            ["a/x/t/d.json", "b/x/t/d.json", "a/y/t/d.json"],
            [],
            ["a_x_t_d", "b_x_t_d", "a_y_t_d"],
        ),
        (["a/coco/annotations/x.json", "b/coco/annotations/x.json"], [], ["a_coco_x", "b_coco_x"]),
        ([], ["a/train", "b/train/images", "c"], ["a_train", "b_train", "c"]),
        (["/train/x.json", "/a/train/x.json"], [], ["_train_x", "a_train_x"]),
        (["a/b.json"], ["c/a_b", "d/a_b"], None),
    ],
)
def test_equal_names_are_preceded_by_the_nearest_folders_that_differ(
    cocos: list[str], folders: list[str], expected: list[str] | None
) -> None:
    found = name_sources(cocos, folders)
    assert len(set(found)) == len(found)
    if expected is not None:
        assert found == expected
    # The names do not depend on the order.
    assert name_sources(cocos[::-1], folders[::-1]) == found[: len(cocos)][::-1] + found[len(cocos) :][::-1]


def test_the_same_file_twice_has_no_two_names() -> None:
    with pytest.raises(NDSError, match="2 sources would be called 'a_x', .* give each a name by --name"):
        name_sources(["a/x.json", "b/../a/x.json"], [])


def test_folders_that_are_spelled_alike_in_a_name_are_refused() -> None:
    with pytest.raises(NDSError, match="2 sources would be called 'p_t_d': give each a name by --name"):
        name_sources(["p/t/d.json", "q/t/d.json", "p_t/d.json"], [])


def test_indexes_of_one_source_are_not_joined(tmp_path: Path) -> None:
    for number, project in enumerate(("a", "b")):
        write_image(tmp_path / project / "train" / f"{number}.png")
    with pytest.raises(NDSError, match="two of the joined indexes have a source 'train'"):
        SourceIndex.join([index_folder(tmp_path / project / "train") for project in ("a", "b")])


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Two exports of one layout, whose images have the same ids."""
    for project in ("projA", "projB"):
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            write_image(tmp_path / project / "train" / name)
        write_coco(tmp_path / project / "train", document(), "_annotations.coco.json")
    return tmp_path


def coco(exports: Path, project: str) -> list[str]:
    folder = exports / project / "train"
    return ["--coco", str(folder / "_annotations.coco.json"), str(folder)]


def settings(exports: Path) -> list[str]:
    small = ["--num-clusters", "2", "--shared-steps", "1", "--shared-batch", "4", "--crop-size", "32"]
    return [*small, "--num-workers", "0", "--device", "cpu", "--output", str(exports / "out")]


def sources(exports: Path) -> list[str]:
    return SourceIndex.load(exports / "out" / "index.parquet").sources


@pytest.mark.slow
def test_two_exports_of_one_layout_are_joined_as_two_sources(exports: Path, user: User) -> None:
    user.runs("partition_source", *coco(exports, "projA"), *coco(exports, "projB"), *settings(exports))
    assert sources(exports) == ["projA_train__annotations.coco", "projB_train__annotations.coco"]


@pytest.mark.slow
def test_names_are_given_in_the_order_of_the_command_line(exports: Path, user: User) -> None:
    folder = ["--folder", str(exports / "projA" / "train"), "--name", "photos"]
    user.runs("partition_source", *folder, *coco(exports, "projB"), "--name", "boxes", *settings(exports))
    assert sources(exports) == ["boxes", "photos"]  # COCO files come first


def test_too_few_names_or_equal_ones_are_refused(exports: Path, user: User) -> None:
    two = [*coco(exports, "projA"), *coco(exports, "projB")]
    line = user.fails("partition_source", *two, "--name", "one", *settings(exports))
    assert "1 times --name for 2 sources by --coco and --folder: give each of them a name" in line
    line = user.fails("partition_source", *two, "--name", "one", "--name", "one", *settings(exports))
    assert "2 sources are called 'one': give each another name by --name" in line
    dataset = ["--dataset", "coco_2017_val", *coco(exports, "projA"), "--name", "coco_2017_val"]
    line = user.fails("partition_source", *dataset, *settings(exports))
    assert "2 sources are called 'coco_2017_val'" in line
    assert not (exports / "out").exists()
