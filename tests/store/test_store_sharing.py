"""Stores between users, places and names: who finds whose, and what is built again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from coco_files import document, write_coco

from nds_plugin.datasets.coco import store as coco_store
from nds_plugin.datasets.coco.store import coco_spec, open_coco
from nds_plugin.errors import NDSError
from nds_plugin.files import temporary
from nds_plugin.files.artifacts import HEADER
from nds_plugin.store import AnnotationStore, Inputs, opening
from nds_plugin.store.inputs import built_from
from nds_plugin.store.opening import open_built

NOBODY = 65534
_OPEN = """
import os, sys
from nds_plugin.datasets.coco import store as coco_store
coco_store.open_coco(sys.argv[3])  # imports all that is needed: the other user may not see this Python
os.setgid({uid}); os.setuid({uid})
if sys.argv[2] == "read":
    coco_store.stream_object = None  # a build would fail
print(coco_store.open_coco(sys.argv[1]).path)
"""


def _as_nobody(path: Path, home: Path, what: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    warm = write_coco(home.parent / "warm", document())
    return subprocess.run(
        [sys.executable, "-c", _OPEN.format(uid=NOBODY), str(path), what, str(warm)],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user for a moment")
def test_a_user_who_cannot_write_takes_the_store_that_is_there(tmp_path: Path) -> None:
    folder, home = tmp_path / "data", tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for above in (tmp_path, *list(tmp_path.parents)[:3]):
        above.chmod(above.stat().st_mode | 0o055)
    path = write_coco(folder, document())
    first = _as_nobody(path, home, "build")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(str(home)), "built in the user's own cache"
    whole = open_coco(path)
    second = _as_nobody(path, home, "read")
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip() == str(whole.path)


def test_a_tree_reached_by_another_path_is_the_same(tmp_path: Path) -> None:
    real = tmp_path / "real"
    for name in ("a.xml", "b/c.xml"):
        file = real / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "link").symlink_to(real)
    names = ("a.xml", "b/c.xml")
    by_name = Inputs(tree=[real / name for name in names], root=real).state()
    link = tmp_path / "link"
    by_link = Inputs(tree=[link / name for name in names], root=link)
    assert built_from(by_name, by_link, tmp_path / "x.arrow") is None
    (real / "b/c.xml").write_text("changed")
    change = built_from(by_name, by_link, tmp_path / "x.arrow")
    assert change is not None
    assert "c.xml" in change


def test_a_file_reached_through_a_link_has_one_store(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "real" / "coco", document())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    stores = [
        coco_spec(p, "x", p.parent.parent / "nds_stores").path
        for p in (path, tmp_path / "link" / "coco" / path.name)
    ]
    assert stores[0].name == stores[1].name
    assert os.path.realpath(stores[0]) == os.path.realpath(stores[1])


def test_content_that_changes_under_the_old_time_is_noticed(tmp_path: Path) -> None:
    content = document()
    path = write_coco(tmp_path, content)
    spec = coco_spec(path, "x")
    open_coco(path)
    assert open_built(spec, spec.inputs())
    times = path.stat()
    content["categories"][0]["name"] = "god"
    path.write_text(json.dumps(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert open_coco(path).classes == ["cat", "god"]


@pytest.mark.parametrize("header", [b"{", b"[]", "inputs", "batch_starts"])
def test_a_store_with_a_damaged_header_is_one_line_and_built_again(
    tmp_path: Path, header: bytes | str
) -> None:
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    path = spec.path
    store = opening.open_or_build(spec)
    batch = store.batch(0)
    lost = header if isinstance(header, str) else ""
    if isinstance(header, str):
        header = json.dumps({key: value for key, value in store.header.items() if key != lost}).encode()
    with pa.OSFile(str(path), "wb") as file:
        writer = pa.ipc.new_file(file, batch.schema.with_metadata({HEADER: header}))
        writer.write_batch(batch)
        writer.close()
    if lost != "inputs":  # which only building asks for
        with pytest.raises(NDSError, match=r"the header of .* is damaged"):
            AnnotationStore(path)
    assert not open_built(spec, spec.inputs())
    assert len(opening.open_or_build(spec)) == 3


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    spec.path.parent.mkdir(parents=True)
    left = spec.path.parent / f".{spec.path.name}.nds-{temporary._kernel()}-abc123_4.tmp"
    left.write_bytes(b"half")
    opening.open_or_build(spec)
    assert not left.exists()


def test_another_reader_makes_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path, document())
    open_coco(path)
    monkeypatch.setattr(coco_store, "SETTINGS", ["coco", coco_store.READER + 1])
    spec = coco_spec(path, "x")
    assert not open_built(spec, spec.inputs())


def test_a_process_looks_through_a_tree_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    spec = coco_spec(write_coco(tmp_path, document()), "x")
    real: Any = Inputs.state
    opening.open_once(spec)
    monkeypatch.setattr(Inputs, "state", lambda self: looked.append(1) or real(self))
    assert opening.open_once(spec) is opening.open_once(spec)
    assert not looked


def test_detectron2s_own_names_share_the_store_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = pytest.importorskip("nds_plugin.d2.data.registration")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    from nds_plugin.datasets.coco.coco_2017 import COCO

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = write_coco(tmp_path / "coco" / "annotations", document(), "instances_val2017.json")
    register_coco_instances("sharing_val", {}, str(path), str(tmp_path / "coco" / "val2017"))
    try:
        (ours,) = [s for s in COCO.splits if s.split == "val"]
        assert registration.store_source("sharing_val").spec().path == ours.spec(tmp_path).path
    finally:
        DatasetCatalog.remove("sharing_val")
        MetadataCatalog.remove("sharing_val")


def test_a_copy_of_detectron2s_registration_loads_by_itself(tmp_path: Path) -> None:
    registration = pytest.importorskip("nds_plugin.d2.data.registration")
    from detectron2.data import DatasetCatalog, MetadataCatalog

    def register_coco_instances(name: str, json_file: str, image_root: str) -> None:
        DatasetCatalog.register(name, lambda: [{"file_name": json_file, "score": 0.7, "root": image_root}])
        MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root)

    register_coco_instances("sharing_copy", "a.json", "images")
    try:
        assert registration.store_source("sharing_copy") is None
        assert registration.raw_dicts("sharing_copy")[0]["score"] == 0.7
    finally:
        DatasetCatalog.remove("sharing_copy")
        MetadataCatalog.remove("sharing_copy")
