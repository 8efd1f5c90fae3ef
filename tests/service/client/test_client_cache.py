"""Experts from a server that lies: nothing is kept that was not checked, nothing is written elsewhere."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_experts import TINY, trained

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet, write_network
from nds_plugin.experts.manifest import set_hash
from nds_plugin.files.locking import user_cache
from nds_plugin.images.networks import build_network
from nds_plugin.service.client import verbs
from nds_plugin.service.client.cache import current_set, fetch_experts
from nds_plugin.service.client.folders import Tokens
from nds_plugin.service.client.http import Service
from nds_plugin.service.client.search import own_searches

pytestmark = pytest.mark.slow

ID = "0123456789abcdef"


@functools.lru_cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache
def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


class Impostor:
    """A server that says what it is told to: JSON by path, and files."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                path = self.path.removeprefix("/api/v1/")
                outer.asked.append((path, dict(self.headers)))
                answer = outer.answers.get(path)
                if callable(answer):
                    answer(self)
                    return
                name = path.rpartition("/")[2]
                body = outer.files.get(name, b"") if "/files/" in path else json.dumps(answer).encode()
                self.send_response(200 if answer is not None or name in outer.files else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def publish(self, folder: Path) -> None:
        """Serve a folder of experts honestly."""
        self.files = {path.name: _bytes_of(path) for path in folder.iterdir() if path.is_file()}
        self.answers["sources"] = {"expert_set": ID, "sources": []}
        self.describe(json.loads(self.files["manifest.json"]))

    def describe(self, manifest: dict[str, Any]) -> None:
        """Describe the files as they are now, under this manifest."""
        self.files["manifest.json"] = json.dumps(manifest).encode()
        listed = [
            {"name": name, "bytes": len(data), "sha256": _sha256(data), "url": ""}
            for name, data in self.files.items()
        ]
        self.answers[f"expert-sets/{ID}"] = {"id": ID, "manifest": manifest, "files": listed}

    @property
    def described(self) -> dict[str, Any]:
        return self.answers[f"expert-sets/{ID}"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ExpertSet:
    return trained(tmp_path_factory.mktemp("honest"), replace(TINY, shared_steps=0, init="scratch"))


@pytest.fixture
def impostor(experts: ExpertSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Impostor]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    server = Impostor()
    server.publish(experts.directory)
    yield server
    server.close()


def _fetch(impostor: Impostor) -> Path:
    with Service(impostor.url, Tokens(), timeout=5, retries=1) as service:
        return fetch_experts(service, current_set(service), progress=False)


def _kept() -> list[str]:
    return sorted(path.name for path in user_cache().rglob("*") if path.suffix in (".safetensors", ".part"))


def test_an_honest_server_gives_the_experts(impostor: Impostor, experts: ExpertSet) -> None:
    folder = _fetch(impostor)
    assert ExpertSet.load(folder).hash == experts.hash
    ExpertSet.load(folder).verify()


def test_what_is_in_the_cache_is_not_asked_for_again(impostor: Impostor) -> None:
    _fetch(impostor)
    impostor.asked.clear()
    _fetch(impostor)
    assert [path for path, _ in impostor.asked] == ["sources", f"expert-sets/{ID}"]


def test_a_server_without_ranges_is_asked_for_the_whole_file(impostor: Impostor, experts: ExpertSet) -> None:
    folder = user_cache() / "experts" / experts.hash
    folder.mkdir(parents=True)
    (folder / ".expert_0000.safetensors.part").write_bytes(impostor.files["expert_0000.safetensors"][:1000])
    _fetch(impostor)
    ranges = [headers["Range"] for path, headers in impostor.asked if "Range" in headers]
    assert ranges == ["bytes=1000-"]
    assert not list(folder.glob("*.part"))


def test_a_half_that_was_damaged_on_this_disk_is_thrown_away(impostor: Impostor, experts: ExpertSet) -> None:
    name = "expert_0000.safetensors"

    def ranges(handler: BaseHTTPRequestHandler) -> None:
        data, start = impostor.files[name], 0
        if "Range" in handler.headers:
            start = int(handler.headers["Range"][len("bytes=") : -1])
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:])

    impostor.answers[f"expert-sets/{ID}/files/{name}"] = ranges
    folder = user_cache() / "experts" / experts.hash
    folder.mkdir(parents=True)
    (folder / f".{name}.part").write_bytes(b"x" * 1000)
    assert (_fetch(impostor) / name).read_bytes() == impostor.files[name]


def _network(outputs: int, **changes: Any) -> bytes:
    """An expert's file; ``changes`` replace tensors by name, or leave one out (None)."""
    weights = {**build_network(outputs).state_dict(), **{k.replace("__", "."): v for k, v in changes.items()}}
    path = user_cache().parent / "made.safetensors"
    write_network(path, {k: v for k, v in weights.items() if v is not None}, {"key": "k", "outputs": outputs})
    data = path.read_bytes()
    path.unlink()
    return data


def _with_header(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def _overlap() -> bytes:
    data = _network(4)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["fc.bias"]["data_offsets"] = [0, 16]
    return _with_header(json.dumps(header).encode().ljust(size)) + data[8 + size :]


BAD_EXPERTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "another number of outputs": (lambda: _network(5), r"tensor 'fc\.weight' should be F32 \[4, 512\]"),
    "a tensor missing": (lambda: _network(4, fc__bias=None), "tensors are missing or unknown"),
    "a tensor more": (lambda: _network(4, extra=torch.zeros(3)), "tensors are missing or unknown"),
    "another shape": (lambda: _network(4, bn1__bias=torch.zeros(65)), r"'bn1\.bias' should be F32 \[64\]"),
    "another type": (lambda: _network(4, bn1__bias=torch.zeros(64).half()), r"'bn1\.bias' should be F32"),
    "a header of a gigabyte": (lambda: _with_header(b"{}", 1 << 30), "its header claims 1073741824 bytes"),
    "a negative header": (lambda: _with_header(b"{}", (1 << 64) - 1), "its header claims"),
    "a header that is no JSON": (lambda: _with_header(b"{nothing}"), "not a complete safetensors file"),
    "deep JSON": (lambda: _with_header(b"[" * 100_000 + b"]" * 100_000), "not a complete safetensors file"),
    "tensors on top of each other": (_overlap, "not a complete safetensors file"),
    "bytes after the end": (lambda: _network(4) + b"x", "not a complete safetensors file"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n(X\x02\x00\x00\x00lstR.", "header claims"),
    "nothing in it": (lambda: b"\x00", "header claims"),
}


@pytest.mark.parametrize("name", BAD_EXPERTS)
def test_an_expert_of_the_right_hash_that_is_no_expert_is_refused(name: str, impostor: Impostor) -> None:
    make, message = BAD_EXPERTS[name]
    impostor.files["expert_0001.safetensors"] = data = make()
    manifest = json.loads(impostor.files["manifest.json"])
    manifest["experts"][1]["sha256"] = hashlib.sha256(data).hexdigest()
    manifest["hash"] = set_hash(manifest)
    impostor.describe(manifest)
    with pytest.raises(NDSError, match=message):
        _fetch(impostor)
    assert "expert_0001.safetensors" not in _kept()
    assert not [name for name in _kept() if name.endswith(".part")]


def test_a_file_of_another_hash_is_refused(impostor: Impostor) -> None:
    data = bytearray(impostor.files["expert_0001.safetensors"])
    data[-1] ^= 1
    impostor.files["expert_0001.safetensors"] = bytes(data)
    with pytest.raises(NDSError, match=r"expert_0001\.safetensors is not the file that the manifest names"):
        _fetch(impostor)
    assert _kept() == ["expert_0000.safetensors"]


@pytest.mark.parametrize("change", [b"more bytes", b""])
def test_a_file_of_another_length_is_refused(change: bytes, impostor: Impostor) -> None:
    data = impostor.files["expert_0001.safetensors"]
    impostor.files["expert_0001.safetensors"] = data + change if change else data[:-10]
    with pytest.raises(NDSError, match="more bytes than|the answer ended after"):
        _fetch(impostor)
    assert "expert_0001.safetensors" not in _kept()


def _edit(path: str, value: Any) -> Callable[[Impostor], None]:
    """Change the description at a path such as ``manifest.experts.1.file``; the hash is made to fit."""

    def change(impostor: Impostor) -> None:
        *way, last = path.split(".")
        place: Any = impostor.described
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        place[int(last) if last.isdigit() else last] = value
        if path.startswith("manifest.") and path != "manifest.hash":
            with_hash = impostor.described["manifest"]
            try:
                with_hash["hash"] = set_hash(with_hash)
            except Exception:
                return

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit("manifest.hash", "f" * 64), "its hash is not that of its content"),
        (_edit("manifest.config.base_lr", math.nan), "its hash is not that of its content"),
        (_edit("manifest.experts.1.file", "../../../evil.safetensors"), "lies outside|no name of an expert"),
        (_edit("manifest.experts.1.file", ".."), "no name of an expert's file"),
        (_edit("manifest.experts.1.file", "manifest.json"), "two experts share a file"),
        (_edit("manifest.experts.1.file", "expert_0000.safetensors"), "two experts share a file"),
        (_edit("manifest.experts.1.file", "a\x1b[2J.safetensors"), r"no name of an expert's file"),
        (_edit("manifest.experts.1.file", "expert_0001.pth"), "no name of an expert's file"),
        (_edit("manifest.experts", []), "expected 1 to 4096 experts"),
        (_edit("manifest.experts", [{}] * 5000), "expected 1 to 4096 experts"),
        (_edit("manifest.experts", "many"), "expected 1 to 4096 experts"),
        (_edit("manifest.crop_size", 10**9), "expected crops of 8 to 1024 pixels, got 1000000000"),
        (_edit("manifest.crop_size", True), "expected crops"),
        (_edit("manifest.classes", ["x"] * 200_000), "expected 2 to 100000 classes"),
        (_edit("manifest.arch", "resnet50"), "experts of architecture 'resnet50'"),
        (_edit("files", []), r"no sound size and hash of manifest\.json"),
        (_edit("files", None), "no sound size and hash"),
        (_edit("files.1.bytes", 1 << 40), "is of 1099511.6 MB, clients take files of at most"),
        (_edit("files.1.bytes", -1), "no sound size and hash"),
        (_edit("files.1.sha256", "f" * 64), "another hash than in the manifest|not the file|is listed"),
        (_edit("manifest", None), "holds no manifest"),
        (_edit("manifest", []), "holds no manifest"),
    ],
)
def test_a_description_that_cannot_be_right_is_refused_before_anything_is_fetched(
    change: Callable[[Impostor], None], message: str, impostor: Impostor, tmp_path: Path
) -> None:
    change(impostor)
    with pytest.raises(NDSError, match=message) as error:
        _fetch(impostor)
    assert "\x1b" not in str(error.value)
    assert not list(tmp_path.rglob("evil*"))
    assert not [name for name in _kept() if name == "expert_0001.safetensors"]


@pytest.mark.parametrize(
    "answer", [[], None, {"expert_set": None}, {"expert_set": "../../x"}, {"expert_set": "A" * 16}, "x"]
)
def test_a_server_of_something_else_is_told_apart(answer: Any, impostor: Impostor) -> None:
    impostor.answers["sources"] = answer
    with pytest.raises(NDSError, match=r"16 hexadecimal digits|404|is this a server of nds_plugin"):
        _fetch(impostor)


@pytest.mark.parametrize("answer", [[], {}, {"sources": 1}, {"sources": [1]}])
def test_a_list_of_sources_that_is_none_is_told_apart(answer: Any, impostor: Impostor) -> None:
    impostor.answers["sources"] = answer
    with pytest.raises(NDSError, match="no list 'sources': is this a server of nds_plugin"):
        verbs.sources(argparse.Namespace(server=impostor.url))


def test_odd_parts_of_a_source_are_shown_without_harm(
    impostor: Impostor, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"name": "odd", "images": "\x1b[31m", "clusters": 3, "licenses": 4}
    impostor.answers["sources"] = {"sources": [entry]}
    verbs.sources(argparse.Namespace(server=impostor.url))
    out = capsys.readouterr().out
    assert "odd" in out
    assert "\x1b" not in out


def _says(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_says(302, b"", Location="http://127.0.0.1:1/"), "302"),
        (_says(200, b"<html>"), "the answer is not JSON"),
        (_says(200, b"[" * 200_000), "the answer is not JSON"),
        (_says(500, b""), "500"),
        (_says(429, b"", Retry_After="9999"), r"429 .*it asks to wait 9999 seconds"),
        (_says(503, b"", Retry_After="0"), r"503 .*tried 2 times"),
        (_says(403, b'{"title": "No", "detail": "a\\u001b[31m\\nb"}'), r"403 No: a\?\[31m b"),
        (_says(200, b"no gzip", Content_Encoding="gzip"), "tried 2 times"),
        (_says(500, b"no gzip", Content_Encoding="gzip"), "tried 2 times"),
        (_says(422, b'{"title": "No", "errors": [{"loc": "z"}]}'), "422 No .*loc"),
    ],
)
def test_answers_of_other_kinds_are_one_line(
    answer: Callable[[BaseHTTPRequestHandler], None], message: str, impostor: Impostor
) -> None:
    impostor.answers["sources"] = answer
    with pytest.raises(NDSError, match=message) as error:
        _fetch(impostor)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_nobody_there_is_told_after_some_tries(tmp_path: Path) -> None:
    with (
        Service("http://127.0.0.1:9", Tokens(tmp_path / "t"), retries=1) as service,
        pytest.raises(NDSError, match=r"no server answers at http://127.0.0.1:9 .*tried 2 times.*NDS_SERVER"),
    ):
        service.get("sources")


def test_a_server_that_was_never_reached_is_not_waited_for_as_long_as_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("nds_plugin.service.client.http.time.sleep", waits.append)
    with (
        Service("http://127.0.0.1:9", Tokens(tmp_path / "t")) as service,
        pytest.raises(NDSError, match=r"--server or NDS_SERVER"),
    ):
        service.get("sources")
    assert 0 < sum(waits) < 2


def test_the_token_goes_to_no_other_address(impostor: Impostor, tmp_path: Path) -> None:
    other = Impostor()
    impostor.answers["searches"] = _says(307, b"", Location=f"{other.url}/api/v1/searches")
    tokens = Tokens(tmp_path / "tokens.json")
    tokens.get_or_ask(impostor.url, lambda: "secret")
    with Service(impostor.url, tokens, retries=0) as service, pytest.raises(NDSError, match="307"):
        service.get("searches", private=True)
    assert other.asked == []
    other.close()


def test_all_pages_of_the_own_searches_are_read(impostor: Impostor, tmp_path: Path) -> None:
    impostor.answers["searches"] = {"searches": [{"id": "a"}], "next": "7"}
    impostor.answers["searches?cursor=7"] = {"searches": [{"id": "b"}, {"id": "c"}], "next": None}
    tokens = Tokens(tmp_path / "tokens.json")
    tokens.get_or_ask(impostor.url, lambda: "secret")
    with Service(impostor.url, tokens) as service:
        assert [entry["id"] for entry in own_searches(service)] == ["a", "b", "c"]
    assert all(headers["Authorization"] == "Bearer secret" for _, headers in impostor.asked)


def test_a_manifest_that_is_cut_short_leaves_no_file(impostor: Impostor, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"source,image_id")
        handler.close_connection = True

    impostor.answers["searches/x/manifest?format=csv"] = cut
    tokens = Tokens(tmp_path / "tokens.json")
    tokens.get_or_ask(impostor.url, lambda: "secret")
    with Service(impostor.url, tokens, retries=1) as service, pytest.raises(NDSError, match="tried 2 times"):
        service.save("searches/x/manifest", {"format": "csv"}, tmp_path / "m.csv")
    assert len(impostor.asked) == 2
    assert not list(tmp_path.glob("*m.csv*"))
