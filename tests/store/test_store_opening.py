"""When a store is opened, and when it is built: where it lies, what it notices, who may do what."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from coco_files import document, write_coco
from killing import killed_after_line

from nds_plugin.datasets.coco import coco_2017
from nds_plugin.datasets.coco.store import coco_spec, open_coco
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import HEADER
from nds_plugin.store import AnnotationStore, Images, Inputs, StoreSpec, StoreWriter, open_or_build
from nds_plugin.store.opening import open_built, open_once, store_place


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user of the machine can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


_OPEN_AS_NOBODY = """
import os, sys
from nds_plugin.datasets.coco.store import open_coco
open_coco(sys.argv[2])
if os.geteuid() == 0:  # when all is imported: root's Python may be out of reach of others
    os.setgid(65534)
    os.setuid(65534)
store = open_coco(sys.argv[1])
print(store.path, len(store))
"""


def _as_nobody(path: Path, cache: Path) -> tuple[Path, int]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    warm_up = write_coco(Path(tempfile.mkdtemp(dir=cache.parent)), document())
    command = [sys.executable, "-c", _OPEN_AS_NOBODY, str(path), str(warm_up)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found, count = output.rsplit(maxsplit=1)
    return Path(found), int(count)


@pytest.mark.slow
def test_who_cannot_write_uses_the_store_that_is_there_and_builds_in_the_cache(shared: Path) -> None:
    data, cache = shared / "data", shared / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    path = write_coco(data, document())
    prebuilt = open_coco(path).path
    folders = (data, prebuilt.parent)
    try:
        for folder in folders:
            folder.chmod(0o555)
        assert _as_nobody(path, cache) == (prebuilt, 3)
        assert not list(cache.iterdir())
        content = document()
        content["images"].append({"id": 21, "file_name": "d.jpg", "width": 4, "height": 4})
        path.write_text(json.dumps(content))  # what lies there is out of date now
        found, count = _as_nobody(path, cache)
        assert count == 4
        assert cache in found.parents
        stamp = found.stat()
        assert _as_nobody(path, cache) == (found, 4)
        assert found.stat() == stamp, "built twice"
        assert len(AnnotationStore(prebuilt)) == 3
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert open_coco(path).path == prebuilt, "who can write builds in its place"


def _tree_spec(root: Path) -> StoreSpec:
    files = sorted((root / "labels").iterdir())

    def read(writer: StoreWriter, parts: Path, target: Path) -> list[tuple[int, str]]:
        ids = np.arange(len(files))
        names = pa.array([path.name for path in files], pa.string())
        writer.add_images(Images(image_id=ids, file_name=names, width=ids, height=ids))
        return [(1, "cat")]

    path = store_place(root / "nds_stores" / "tree.arrow")
    return StoreSpec("tree", path, lambda: Inputs(tree=files, settings=1, root=root), read)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    labels = tmp_path / "root" / "labels"
    labels.mkdir(parents=True)
    for number in range(3):
        (labels / f"{number}.xml").write_text("x")
        os.utime(labels / f"{number}.xml", (number, number))
    return tmp_path / "root"


def test_one_folder_by_two_paths_has_one_store(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_file = write_coco(tree / "coco" / "annotations", document(), "instances_train2017.json")
    elsewhere = write_coco(tmp_path / "alone", document())
    for link, target in ((tmp_path / "link", tree), (tmp_path / "link2", tmp_path / "alone")):
        link.symlink_to(target)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tree))
    first = [open_or_build(_tree_spec(tree)), open_coco(json_file), open_coco(elsewhere)]
    monkeypatch.setattr("nds_plugin.store.opening._build", None)
    monkeypatch.setattr("nds_plugin.store.inputs.file_hash", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "link"))
    through = [
        open_or_build(_tree_spec(tmp_path / "link")),
        open_coco(tmp_path / "link" / "coco" / "annotations" / json_file.name),
        open_coco(tmp_path / "link2" / elsewhere.name),
    ]
    for one, other in zip(first, through):
        assert one.path.samefile(other.path)
    assert len(list(tmp_path.rglob("*.arrow"))) == 3


def test_a_tree_that_was_moved_keeps_its_store(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_or_build(_tree_spec(tree))
    moved = tree.rename(tree.with_name("moved"))
    monkeypatch.setattr("nds_plugin.store.opening._build", None)
    assert len(open_or_build(_tree_spec(moved))) == 3


def test_a_changed_tree_says_once_where_to_look(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_or_build(_tree_spec(tree))
    (tree / "labels" / "1.xml").write_text("other")
    caplog.set_level(logging.INFO)
    open_or_build(_tree_spec(tree))
    assert caplog.text.count("the store is made again") == 1
    assert (
        f"some of its 3 annotation files were renamed or changed; the last to change is {tree}" in caplog.text
    )
    assert "labels/1.xml." in caplog.text
    (tree / "labels" / "0.xml").unlink()
    open_or_build(_tree_spec(tree))
    assert "it was built from 3 annotation files, now there are 2; the last to change is" in caplog.text


@pytest.mark.parametrize("registered_first", ["coco_2017_train", "nds_coco_2017_train"])
def test_a_file_has_one_store_whatever_it_is_registered_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered_first: str
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = write_coco(tmp_path / "coco" / "annotations", document(), "instances_train2017.json")
    specs = [coco_spec(path, "coco_2017_train"), coco_2017.COCO.splits[0].spec(tmp_path)]
    specs = specs if registered_first == "coco_2017_train" else specs[::-1]
    first = open_or_build(specs[0])
    assert first.path == tmp_path / "nds_stores" / "nds_coco_2017_train.arrow"
    monkeypatch.setattr("nds_plugin.store.opening._build", None)
    assert open_or_build(specs[1]).path == first.path


def _with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Write the store again with another header."""

    def damage(path: Path) -> None:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        header = json.loads(table.schema.metadata[HEADER])
        new = change(header)
        raw = new if isinstance(new, bytes) else json.dumps(header if new is None else new).encode()
        with pa.ipc.new_file(str(path), table.schema.with_metadata({HEADER: raw})) as file:
            file.write_table(table)

    return damage


@pytest.mark.parametrize(
    "change",
    [
        lambda header: b'{"kind": "annot',
        lambda header: b"\xff\xfe",
        lambda header: [1, 2],
        lambda header: header.pop("inputs") and None,
        lambda header: header.update(inputs=None),
        lambda header: header.update(
            inputs={"files": [{}], "tree": "", "tree_files": 0, "settings": header["inputs"]["settings"]}
        ),
        lambda header: header.pop("batch_starts") and None,
    ],
)
def test_a_store_with_a_damaged_header_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[dict[str, Any]], Any]
) -> None:
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    open_or_build(spec)
    _with_header(change)(spec.path)
    assert not open_built(spec, spec.inputs())
    assert len(open_or_build(spec)) == 3
    assert caplog.text.count("the store is made again") == 1
    assert open_built(spec, spec.inputs())


_SLOW_WRITE = """
import sys, time
from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.store import writer
def slow(self, *args):
    print("writing", flush=True)
    time.sleep(60)
writer.StoreWriter._annotation_part = slow
open_coco(sys.argv[1])
"""


def test_what_a_build_killed_while_writing_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    path = write_coco(tmp_path, document())
    killed_after_line(_SLOW_WRITE, "writing", str(path))
    assert not list(tmp_path.rglob("*.arrow"))
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert len(open_coco(path)) == 3
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("*.scratch")]


def test_the_log_counts_what_is_in_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    with caplog.at_level(logging.INFO):
        open_coco(write_coco(tmp_path, content))
    assert "3 images, 4 annotations." in caplog.text


def test_a_process_looks_through_the_inputs_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = Inputs.state
    monkeypatch.setattr(Inputs, "state", lambda self: looked.append(1) or real(self))
    spec = _tree_spec(tree)
    first = open_once(spec)
    after_build = len(looked)
    assert all(open_once(_tree_spec(tree)) is first for _ in range(5))
    assert len(looked) == after_build
    os.utime(first.path, (1, 1))  # another store there: looked at again
    assert open_once(spec) is not first
    assert len(looked) == after_build + 1


def test_a_process_notices_that_an_annotation_file_changed(tmp_path: Path) -> None:
    content = document()
    path = write_coco(tmp_path, content)
    assert len(open_once(coco_spec(path, "x"))) == 3
    content["images"].append({"id": 21, "file_name": "d.jpg", "width": 4, "height": 4})
    write_coco(tmp_path, content)
    assert len(open_once(coco_spec(path, "x"))) == 4
    path.unlink()
    with pytest.raises(NDSError, match=r"annotation file not found: .*train\.json"):
        open_once(coco_spec(path, "x"))
