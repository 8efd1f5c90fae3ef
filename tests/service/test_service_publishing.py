"""Publishing: a set is checked before it is served, and is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from service_demo import ROOT, copied, other_experts, parts_of

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import file_hash
from nds_plugin.service.fastadapt.scores import expert_name
from nds_plugin.service.published import publishing
from nds_plugin.service.published.publishing import publish
from nds_plugin.service.published.store import NothingPublishedError, Store
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


@pytest.fixture
def folder(service_store: Path, tmp_path: Path) -> Path:
    """The parts of a set, to be changed, and an empty store."""
    store = copied(service_store, tmp_path / "copy")
    shutil.rmtree(store)
    return store.parent


def publish_all(folder: Path, **others: Path) -> str:
    return publish(folder / "store", **{**parts_of(folder / "store"), **others})


def with_column(folder: Path, name: str, values: object) -> Path:
    """The index with other values in a column."""
    index = SourceIndex.load(folder / "index.parquet")
    position = index.table.column_names.index(name)
    changed = SourceIndex(index.table.set_column(position, name, pa.array(values)), index.classes)
    changed.save(folder / "changed.parquet", changed.hash)
    return folder / "changed.parquet"


def test_a_set_holds_what_its_file_says(service_store: Path) -> None:
    published = Store(service_store).current()
    for name, digest in published.info["artefacts"].items():
        assert file_hash(published.folder / name) == digest
    for name, entry in published.files.items():
        path = published.expert_path(name)
        assert (path.stat().st_size, file_hash(path)) == (entry["bytes"], entry["sha256"])


def test_the_artefacts_of_a_set_can_be_drawn_from_without_the_service(service_store: Path) -> None:
    published = Store(service_store).current()
    index = SourceIndex.load(published.folder / "index.parquet")
    Partition.load(published.folder / "partition.parquet").check_matches(index)
    assert index.hash == SourceIndex.load(parts_of(service_store)["index"]).hash


def test_where_the_publishers_files_lie_is_not_published(service_store: Path) -> None:
    published = Store(service_store).current()
    private = str(service_store.parent).encode()
    assert "/" in SourceIndex.load(parts_of(service_store)["index"])[0].file_name
    assert all(
        "/" not in name for name in SourceIndex.load(published.folder / "index.parquet").column("file_name")
    )
    for path in published.folder.rglob("*"):
        assert path.suffix in (".safetensors", "") or private not in path.read_bytes(), path


@pytest.mark.slow
def test_the_same_parts_make_the_same_set_and_other_links_another(folder: Path) -> None:
    first = publish_all(folder)
    assert publish_all(folder) == first
    (folder / "sources.yaml").write_text("street: {homepage: 'https://elsewhere.example/'}")
    second = publish_all(folder)
    assert second != first
    store = Store(folder / "store")
    assert store.current_id() == second
    assert store.get(first).expert_hash == store.get(second).expert_hash
    assert set(store.ids()) == {first, second}


def test_the_newest_set_is_the_last_that_was_published_not_the_last_that_was_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish_all(folder)
    monkeypatch.setattr(publishing, "time", SimpleNamespace(time=lambda: time.time() + 60))
    (folder / "sources.yaml").write_text("street: {homepage: 'https://example.org/new'}")
    new = publish_all(folder)
    os.utime(folder / "store" / "sets" / new, (1, 1))
    assert Store(folder / "store").ids() == [new, old]


def test_a_link_template_fills_only_the_missing_links(folder: Path) -> None:
    index = SourceIndex.load(folder / "index.parquet")
    names = [Path(name).name for name in index.column("file_name")]
    urls = ["" if k % 2 else f"https://own.example/{k}" for k in range(len(index))]
    changed = with_column(folder, "url", urls)
    (folder / "sources.yaml").write_text(
        "street: {link: 'https://host.example/a b/{file_name}?id={image_id}'}".replace("a b", "a%20b")
    )
    publish_all(folder, index=changed)
    published = Store(folder / "store").current()
    rows = [
        row
        for batch in published.rows.take(pa.array(range(len(index))).to_numpy())
        for row in batch.to_pylist()
    ]
    for k, row in enumerate(rows):
        expected = urls[k]
        if not expected and row["source"] == "street":
            expected = f"https://host.example/a%20b/{names[k]}?id={row['image_id']}"
        assert row["url"] == expected
    sources = {entry["name"]: entry for entry in published.info["sources"]}
    assert sources["street"]["linked_images"] == 24
    assert sources["room"]["linked_images"] == 12
    assert sources["street"]["hosts"] == ["https://host.example", "https://own.example"]


def test_names_that_clash_in_a_source_keep_the_folders_below_it(folder: Path) -> None:
    index = SourceIndex.load(folder / "index.parquet")
    names = [f"/private/{index[k].source}/class{k % 2}/{k // 2}.jpg" for k in range(48)]
    names[24:48] = [f"/private/meadow/class{k % 2}/{k // 2}.jpg" for k in range(24)]
    names += [f"/private/room/{k}.jpg" for k in range(24)]
    publish_all(folder, index=with_column(folder, "file_name", names))
    published = Store(folder / "store").current()
    served = SourceIndex.load(published.folder / "index.parquet").column("file_name").tolist()
    assert served[:3] == ["class0/0.jpg", "class1/0.jpg", "class0/1.jpg"]
    assert served[24:26] == ["class0/0.jpg", "class1/0.jpg"]
    assert served[48:51] == ["0.jpg", "1.jpg", "2.jpg"]


def test_whole_paths_beside_relative_ones_do_not_tell_where_the_files_lie(folder: Path) -> None:
    names = [f"{os.getcwd() + '/' if k % 2 else ''}photos/{k % 2}/{k // 2}.jpg" for k in range(72)]
    publish_all(folder, index=with_column(folder, "file_name", names))
    published = Store(folder / "store").current()
    served = SourceIndex.load(published.folder / "index.parquet").column("file_name").tolist()
    assert served[:3] == ["0/0.jpg", "1/0.jpg", "0/1.jpg"]


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "file:///etc/passwd", "//host/x", "http://", "https://a b/", "data:image/png,x"],
)
def test_a_link_that_is_not_of_the_web_is_refused(folder: Path, link: str) -> None:
    changed = with_column(folder, "url", [link] + ["https://fine.example/x"] * 71)
    with pytest.raises(
        NDSError, match="1 images have a link that is not http or https, first .* of source 'street'"
    ):
        publish_all(folder, index=changed)
    assert not (folder / "store" / "current.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stret: {}", "unknown source 'stret'. Did you mean 'street'"),
        ("street: {hompage: x}", "unknown key of source street 'hompage'"),
        ("street: {homepage: 'javascript:x'}", "street.homepage should be an http or https address"),
        ("street: {thumbnails: 'yes please'}", "street.thumbnails should be a bool"),
        ("street: {link: 'https://x.example/same.jpg'}", "street.link names neither"),
        ("street: 3", "expected a mapping under 'street', got a int"),
        ("- street", "expected a mapping of source names, got a list"),
        ("a: [", "cannot read the notes on the sources"),
        ("!!python/object/apply:os.system ['true']", "cannot read the notes on the sources"),
    ],
)
def test_mistakes_in_the_notes_are_told(folder: Path, text: str, message: str) -> None:
    (folder / "sources.yaml").write_text(text)
    with pytest.raises(NDSError, match=message):
        publish_all(folder)


FORMULAS = (
    "=cmd|' /C calc'!A0", "=HYPERLINK(1)", "+1-1|x", "-2+3+cmd|x!A1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1",
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_would_run_in_a_spreadsheet_is_refused(folder: Path, text: str) -> None:
    changed = with_column(folder, "license", [text] + ["CC BY 2.0"] * 71)
    with pytest.raises(
        NDSError, match="1 values of the column license could run as formulas in a spreadsheet, first"
    ):
        publish_all(folder, index=changed)


def test_names_that_only_look_like_formulas_stay_as_they_are(folder: Path) -> None:
    names = ["+/aB9w==", "=A1", "-x_Y.3", "@home"] * 18
    publish_all(folder, index=with_column(folder, "license", names))
    published = Store(folder / "store").current()
    assert SourceIndex.load(published.folder / "index.parquet").column("license").tolist() == names


def test_experts_of_another_partition_are_refused(folder: Path) -> None:
    index = SourceIndex.load(folder / "index.parquet")
    cluster = Partition.load(folder / "partition.parquet").cluster[::-1]
    other = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    other.save(folder / "other.parquet", other.hash)
    with pytest.raises(NDSError, match="experts of another partition"):
        publish_all(folder, partition=folder / "other.parquet")


def test_a_partition_of_another_index_is_refused(folder: Path) -> None:
    changed = with_column(folder, "width", [7] * 72)
    with pytest.raises(NDSError, match="partition does not belong to this index"):
        publish_all(folder, index=changed)


def test_a_tampered_or_cut_expert_is_refused(folder: Path) -> None:
    path = folder / "experts0" / "expert_0001.safetensors"
    data = bytearray(path.read_bytes())
    path.unlink()  # a hard link of the other tests' file
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(NDSError, match="expert_0001.safetensors is not the file that the manifest names"):
        publish_all(folder)
    path.write_bytes(data[:-5])
    with pytest.raises(NDSError, match="is not a complete safetensors file"):
        publish_all(folder)
    path.unlink()
    with pytest.raises(NDSError, match="cannot read .*expert_0001.safetensors"):
        publish_all(folder)
    assert list((folder / "store").glob("sets/*")) == []


def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(folder: Path) -> None:
    path = folder / "experts0" / "manifest.json"
    document = json.loads(path.read_text())
    document["experts"][0]["file"] = "../../../etc/passwd"
    path.write_text(json.dumps(document))
    with pytest.raises(NDSError, match="lies outside the folder"):
        publish_all(folder)


def test_experts_in_the_authors_form_make_another_set_and_are_no_part_of_our_clients_download(
    folder: Path,
) -> None:
    first = publish_all(folder)
    without = Store(folder / "store").current()
    name = expert_name(without.expert_hash, 0)
    (folder / "experts0" / "fastadapt").mkdir()
    (folder / "experts0" / "fastadapt" / name).write_bytes(b"bytes")
    second = publish_all(folder)
    published = Store(folder / "store").current()
    assert published.id == second != first
    assert published.expert_path(name).read_bytes() == b"bytes"
    assert published.fetched_bytes == without.fetched_bytes


def test_files_in_the_authors_form_of_other_experts_are_refused(folder: Path) -> None:
    (folder / "experts0" / "fastadapt").mkdir()
    (folder / "experts0" / "fastadapt" / "nds_0123456789abcdef_expert_0000.pth").write_bytes(b"bytes")
    with pytest.raises(NDSError, match=r"0000\.pth is no file of these experts.*nds export"):
        publish_all(folder)


@pytest.mark.slow
def test_a_killed_publisher_leaves_the_store_as_it_was_and_the_next_one_cleans_up(folder: Path) -> None:
    first = publish_all(folder)
    other = other_experts(folder / "experts0", folder / "experts1")
    store = folder / "store"
    command = [sys.executable, str(ROOT / "tools/serve.py"), "publish", "--store", str(store)]
    command += ["--index", str(folder / "index.parquet"), "--partition", str(folder / "partition.parquet")]
    process = subprocess.Popen(
        [*command, "--experts", str(other)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while not list(store.glob("sets/.publishing-*/experts/*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(store.glob("sets/.publishing-*"))
    assert Store(store).ids() == [first]
    assert Store(store).current_id() == first
    second = publish_all(folder, experts=other)
    assert second != first
    assert not list(store.glob("sets/.publishing-*"))


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NothingPublishedError, match="nothing is published in .* yet: nds-serve publish"):
        Store(tmp_path).current()


def test_a_damaged_set_is_refused_when_it_is_read(service_store: Path, tmp_path: Path) -> None:
    store = copied(service_store, tmp_path / "copy")
    published = Store(store).current()
    rows = published.folder / "rows.arrow"
    data = rows.read_bytes()
    rows.unlink()
    rows.write_bytes(data[: len(data) // 2])
    with pytest.raises(NDSError, match="not a whole file of rows"):
        Store(store).current()


@pytest.mark.slow
def test_publishing_a_damaged_set_again_mends_it(folder: Path) -> None:
    set_id = publish_all(folder)
    place = folder / "store" / "sets" / set_id
    before = place.stat().st_ino
    assert publish_all(folder) == set_id
    assert place.stat().st_ino == before
    for name in ("rows.arrow", "set.json", "experts/expert_0001.safetensors"):
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[: len(data) // 2])
        assert publish_all(folder) == set_id
        assert (place / name).stat().st_size >= len(data)
        Store(folder / "store").current()
    assert [path.name for path in (folder / "store" / "sets").iterdir()] == [set_id]


def test_a_set_can_wait_in_the_store_until_the_admin_moves_on(folder: Path) -> None:
    first = publish_all(folder)
    other = other_experts(folder / "experts0", folder / "experts1")
    second = publish(folder / "store", **{**parts_of(folder / "store"), "experts": other}, current=False)
    store = Store(folder / "store")
    assert (store.current_id(), set(store.ids())) == (first, {first, second})
    store.make_current(second)
    assert store.current_id() == second
