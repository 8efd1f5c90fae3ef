"""nds_plugin/datasets/imagenet/downsampled.py, on batches in the published form that the tests write."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_user import cut, full_disk, logging_kept, tool
from imagenet_trees import FORMS, PER_BATCH, as_images, as_npz, batches, write_tree
from killing import killed_when

from nds_plugin.datasets.imagenet.batches import BatchFile, read_batch
from nds_plugin.datasets.imagenet.downsampled import DOWNSAMPLED_IMAGENET, class_names
from nds_plugin.datasets.public import Split
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError
from nds_plugin.images.packed import split_name, write_packed
from nds_plugin.images.reading import ImageError, load_image, read_header
from nds_plugin.source.folder import check_files
from nds_plugin.source.index import SourceIndex
from nds_plugin.store import AnnotationStore, open_or_build

SPLITS = {split.name: split for split in DOWNSAMPLED_IMAGENET.splits}
TRAIN_32 = SPLITS["downsampled_imagenet_32_train"]


def build(root: Path, split: Split = TRAIN_32) -> AnnotationStore:
    return open_or_build(split.spec(root))


def index(root: Path, split: Split = TRAIN_32) -> SourceIndex:
    return index_store(build(root, split), split.image_root(root), split.name)


def clsloc(path: Path, names: dict[int, str] | None = None) -> Path:
    lines = [
        f"n{label:08d} {label} {(names or {}).get(label, f'name_{label}')}\n" for label in range(1, 1001)
    ]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_image_and_label_is_that_of_the_published_batches(tmp_path: Path, form: str) -> None:
    write_tree(tmp_path, 32, form)
    for name, contents in (("train", [f"train_data_batch_{i}" for i in range(1, 11)]), ("val", ["val_data"])):
        found = index(tmp_path, SPLITS[f"downsampled_imagenet_32_{name}"])
        expected = [batches(32)[content] for content in contents]
        pixels = np.concatenate([as_images(content["data"], 32) for content in expected])
        assert len(found) == len(pixels) == PER_BATCH * len(contents)
        files = found.column("file_name").tolist()
        assert all(np.array_equal(load_image(file), image) for file, image in zip(files, pixels))
        labels = [label - 1 for content in expected for label in content["labels"]]
        assert found.column("label").tolist() == labels
        assert set(found.column("width")) == set(found.column("height")) == {32}
        assert found.classes[labels[0]] == f"class {labels[0] + 1}"


def test_the_64_pixel_images_come_in_two_parts(tmp_path: Path) -> None:
    write_tree(tmp_path, 64)
    found = index(tmp_path, SPLITS["downsampled_imagenet_64_train"])
    assert len(found) == 10 * PER_BATCH
    last = as_images(batches(64)["train_data_batch_10"]["data"], 64)[-1]
    assert np.array_equal(load_image(found[len(found) - 1].file_name), last)


def test_an_unpacked_folder_comes_before_a_zip_file_and_a_pickle_before_an_npz(tmp_path: Path) -> None:
    write_tree(tmp_path, 32, "zip of npz")
    folder = write_tree(tmp_path, 32, "npz")
    other = {**batches(32)["train_data_batch_4"], "labels": [1] * PER_BATCH}
    (folder / "Imagenet32_train_npz" / "train_data_batch_4.npz").write_bytes(as_npz(other))
    labels = index(tmp_path).column("label")
    assert labels[3 * PER_BATCH : 4 * PER_BATCH].tolist() == [0] * PER_BATCH
    write_tree(tmp_path, 32, "pickle")
    first = batches(32)["train_data_batch_4"]["labels"]
    assert index(tmp_path).column("label")[3 * PER_BATCH : 4 * PER_BATCH].tolist() == [i - 1 for i in first]


def test_names_of_classes_come_from_map_clsloc(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    clsloc(folder / "map_clsloc.txt", {1: "kit_fox", 7: "crane", 500: "crane"})
    names = index(tmp_path).classes
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[6], names[499]) == ("kit fox", "crane (n00000007)", "crane (n00000500)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764 one tench\n", "line 1: expected 'WNID LABEL NAME', got 'n01440764 one tench'"),
        ("n01440764 1 tench\n", "expected the labels 1 to 1000, each once, got 1 labels"),
    ],
)
def test_a_damaged_list_of_classes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map_clsloc.txt"
    path.write_text(text)
    with pytest.raises(NDSError, match=message):
        class_names(path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_nothing_that_a_batch_carries_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_tree(tmp_path)
    content = batches(32)["train_data_batch_2"]
    (folder / "Imagenet32_train" / "train_data_batch_2").write_bytes(
        pickle.dumps({**content, "labels": Evil()})
    )
    with pytest.raises(NDSError, match="train_data_batch_2 is refused: its pickle asks for posix.system"):
        build(tmp_path)
    np.savez(
        tmp_path / "train_data_batch_1.npz", data=content["data"], labels=np.array([Evil()], dtype=object)
    )
    with pytest.raises(NDSError, match="is not a whole batch .*allow_pickle=False"):
        read_batch(BatchFile(1, tmp_path / "train_data_batch_1.npz"), 32)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of 2^31 entries
        b"\x80\x04\x8e" + (10**15).to_bytes(8, "little") + b"abc.",  # bytes that are not there
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.",  # an array of 2 GB
    ],
    ids=["memo", "bytes", "array"],
)
def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(data)
    with pytest.raises(NDSError, match=r"train_data_batch_1 is (not a whole pickle|no batch)"):
        read_batch(BatchFile(1, path), 32)


def test_a_missing_batch_is_named_with_the_tree_that_is_expected(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="Imagenet32_train/train_data_batch_1 is not there. Expected below"):
        build(tmp_path)
    folder = write_tree(tmp_path)
    (folder / "Imagenet32_train" / "train_data_batch_7").unlink()
    with pytest.raises(NDSError, match="train_data_batch_7 is not there.*Imagenet32_val/val_data"):
        build(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_that_was_cut_short_is_named(tmp_path: Path, form: str) -> None:
    folder = write_tree(tmp_path, 32, form)
    path = next(iter(sorted(folder.glob("Imagenet32_train*.zip")))) if "zip" in form else None
    path = path or next(path for path in folder.rglob("train_data_batch_3*") if path.is_file())
    cut(path)
    with pytest.raises(NDSError, match=rf"{path.name} is not a whole (batch|pickle|zip)"):
        build(tmp_path)
    assert not TRAIN_32.spec(tmp_path).path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [1, 2, 3]}, f"{PER_BATCH} images but 3 labels"),
        ({"labels": [0] * PER_BATCH}, r"6 labels are not in 1 to 1000, first labels\[0\] = 0"),
        ({"labels": ["a"] * PER_BATCH}, "'labels' must be a list of whole numbers, got a list"),
        ({"data": [[1, 2]]}, "'data' must be a table of bytes, one image in a row, got a list"),
        ({"data": np.zeros((PER_BATCH, 12288), np.uint8)}, "expected images of 32 x 32.*as of 64 x 64"),
    ],
)
def test_a_batch_with_wrong_content_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(pickle.dumps({**batches(32)["train_data_batch_1"], **change}))
    with pytest.raises(NDSError, match=message):
        read_batch(BatchFile(1, path), 32)


@pytest.mark.parametrize(
    ("content", "message"), [({"images": 1}, "lacks 'data', 'labels', it has 'images'"), ([1], "got a list")]
)
def test_a_pickle_of_something_else_is_no_batch(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(NDSError, match=f"is no batch of Downsampled ImageNet: .*{message}"):
        read_batch(BatchFile(1, path), 32)


def test_a_changed_batch_is_converted_again(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    before = index(tmp_path)
    content = batches(32)["train_data_batch_1"]
    changed = {**content, "data": 255 - content["data"]}
    (folder / "Imagenet32_train" / "train_data_batch_1").write_bytes(pickle.dumps(changed))
    after = index(tmp_path)
    assert after[0].file_name == before[0].file_name
    assert np.array_equal(load_image(after[0].file_name), 255 - as_images(content["data"], 32)[0])


def test_pixels_that_were_removed_are_made_again(tmp_path: Path) -> None:
    write_tree(tmp_path)
    before = index(tmp_path)
    (TRAIN_32.image_root(tmp_path) / "train_data_batch_2.npy").unlink()
    with pytest.raises(ImageError, match="train_data_batch_2.npy#0: no such file of images"):
        load_image(before[PER_BATCH].file_name)
    assert index(tmp_path).hash == before.hash
    assert load_image(before[PER_BATCH].file_name).size == (32, 32)


SLOW = """
import sys, time
from pathlib import Path
from nds_plugin.datasets.imagenet import downsampled as module
from nds_plugin.store import open_or_build

whole = module.read_batch
def read_batch(batch, size):
    if batch.number >= 5:
        time.sleep(60)
    return whole(batch, size)
module.read_batch = read_batch
open_or_build(module.DOWNSAMPLED_IMAGENET.splits[0].spec(Path(sys.argv[1])))
"""


def test_a_conversion_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    write_tree(tmp_path)
    pixels = TRAIN_32.image_root(tmp_path)
    parts = TRAIN_32.spec(tmp_path).path.parent / f".{TRAIN_32.name}.arrow.parts"
    killed_when(SLOW, lambda: len(list(parts.glob("*.arrow"))) == 4, str(tmp_path))
    assert not TRAIN_32.spec(tmp_path).path.exists()
    done = {path.name: path.stat().st_mtime_ns for path in pixels.glob("*.npy")}
    assert set(done) == {f"train_data_batch_{i}.npy" for i in range(1, 5)}
    assert len(build(tmp_path)) == 10 * PER_BATCH  # waits at most a moment for the killed one's processes
    assert {name: (pixels / name).stat().st_mtime_ns for name in done} == done
    assert not parts.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing_half(tmp_path: Path) -> None:
    write_tree(tmp_path)
    with full_disk(5000), pytest.raises(NDSError, match="disk full while writing .*train_data_batch_"):
        build(tmp_path)
    assert not list(tmp_path.rglob("*.npy"))
    assert len(build(tmp_path)) == 10 * PER_BATCH


def test_a_packed_image_that_cannot_be_read_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_packed(path, (2, 4, 6, 3), [np.zeros((2, 4, 6, 3), np.uint8)])
    assert load_image(f"{path}#1").size == read_header(f"{path}#0").shown == (6, 4)
    assert split_name(path) is None
    with pytest.raises(ImageError, match=r"a.npy#2: the image cannot be read \(row 2 of 2\)"):
        load_image(f"{path}#2")
    with pytest.raises(ImageError, match="b.npy#0: no such file of images"):
        load_image(tmp_path / "b.npy#0")
    cut(path)
    for read in (load_image, read_header):
        with pytest.raises(ImageError, match="a.npy#0: "):
            read(f"{path}#0")
    np.save(path, np.zeros((2, 4), np.uint8))
    with pytest.raises(ImageError, match="not an array of RGB images"):
        load_image(f"{path}#0")


def test_files_of_packed_images_are_looked_for(tmp_path: Path) -> None:
    write_tree(tmp_path)
    found = index(tmp_path)
    assert check_files(found) == []
    (TRAIN_32.image_root(tmp_path) / "train_data_batch_2.npy").unlink()
    gone = found.column("file_name").tolist()[PER_BATCH : 2 * PER_BATCH]
    assert check_files(found) == gone
    assert check_files(found, sample=60) == gone


@pytest.mark.slow
def test_partition_and_experts_run_on_it_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nds_plugin.d2.data.known_datasets import register_all

    write_tree(tmp_path / "datasets")
    out = tmp_path / "out"

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--crop-size", "32", "--shared-steps", "2"])
        tool(name).main()
        return capsys.readouterr().out

    with logging_kept(), monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
        register_all()
        source = ("--dataset", TRAIN_32.name, "--num-clusters", "2", "--shared-batch", "4")
        run("partition_source", *source, "--num-workers", "0", "--output", str(out))
    register_all()
    loaded = SourceIndex.load(out / "index.parquet")
    assert len(loaded) == 10 * PER_BATCH
    assert loaded.sources == [TRAIN_32.name]
    files = ("--index", str(out / "index.parquet"), "--partition", str(out / "partition.parquet"))
    for task in ("rotation", "supervised"):
        steps = ("--steps", "2", "--batch-size", "4", "--num-workers", "0")
        told = run(
            "train_experts", *files, "--kind", "network", *steps, "--task", task, "--output", str(out / task)
        )
        assert told.count("cluster ") == 2
        assert "expert set " in told
