"""Images from providers that behave badly: each is there whole, or a reason says why it is not."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from as_user import ROOT, cut, full_disk
from PIL import Image
from provider import Provider, photo, provider

from nds_plugin.errors import NDSError
from nds_plugin.service.client.checks import image_fault, known_placeholders
from nds_plugin.service.client.download import DownloadConfig, Summary, download
from nds_plugin.service.client.fetch import FetchConfig
from nds_plugin.service.client.hosts import Politeness
from nds_plugin.service.client.manifest import Wanted, plan
from nds_plugin.source.folder import index_folder
from nds_plugin.source.image_folders import list_images

pytestmark = pytest.mark.slow

QUICK = DownloadConfig(
    politeness=Politeness(rate=0), fetch=FetchConfig(retries=2, timeout=0.6, deadline=1.0, longest_pause=5.0)
)


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with provider() as running:
        yield running


def _md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def _wanted(url: str, *, name: str = "a.jpg", checksum: str = "", size: str = "") -> list[Wanted]:
    row = {
        "source": "coco",
        "image_id": name,
        "url": url,
        "checksum": checksum,
        "size": size,
        "file_name": name,
    }
    return plan([row], "test")


def _one(
    url: str, folder: Path, config: DownloadConfig = QUICK, **fields: str
) -> tuple[Summary, dict[str, str]]:
    """Download one image: the summary, and its line of failures.csv (empty if it is there)."""
    summary = download(_wanted(url, **fields), folder, config, progress=False)
    with open(folder / "failures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert not (folder / ".nds_parts").exists()
    return summary, rows[0] if rows else {}


def test_an_image_arrives_as_it_is_under_its_own_name(server: Provider, tmp_path: Path) -> None:
    summary, failed = _one(f"{server.url}/ok/a.jpg", tmp_path)
    assert (summary.fetched, summary.there, failed) == (1, 0, {})
    assert (tmp_path / "coco" / "a.jpg").read_bytes() == photo("a.jpg")
    assert list_images(tmp_path) == [str(tmp_path / "coco" / "a.jpg")]


def test_an_image_whose_link_has_no_file_ending_is_found_by_those_who_read_the_folder(
    server: Provider, tmp_path: Path
) -> None:
    summary, _ = _one(f"{server.url}/ok/1187", tmp_path, name="1187")
    assert summary.fetched == 1
    place = str(tmp_path / "coco" / "1187")
    assert list_images(tmp_path) == [place]
    assert index_folder(tmp_path).column("file_name").tolist() == [place]


@pytest.mark.parametrize(
    "form",
    [
        lambda data: _md5(data),
        lambda data: _md5(data).upper(),
        lambda data: "md5:" + _md5(data),
        lambda data: base64.b64encode(hashlib.md5(data).digest()).decode(),
        lambda data: hashlib.sha256(data).hexdigest(),
        lambda data: "sha-256:" + base64.b64encode(hashlib.sha256(data).digest()).decode(),
    ],
)
def test_checksums_are_read_as_providers_write_them(form: object, server: Provider, tmp_path: Path) -> None:
    good, bad = form(photo("a.jpg")), form(photo("b.jpg"))  # type: ignore[operator]
    assert _one(f"{server.url}/ok/a.jpg", tmp_path / "good", checksum=good)[0].fetched == 1
    _, failed = _one(f"{server.url}/ok/a.jpg", tmp_path / "bad", checksum=bad)
    assert failed["reason"] == "checksum"
    assert not list((tmp_path / "bad").rglob("*.jpg"))


@pytest.mark.parametrize(
    ("path", "reason", "requests"),
    [
        ("status/404/a", "not found", 1),
        ("status/410/a", "not found", 1),
        ("status/403/a", "refused", 1),
        ("status/418/a", "answer", 1),
        ("status/204/a", "answer", 1),
        ("status/500/a", "server error", 3),
        ("status/503/b", "server error", 3),
        ("reset/99/a", "connection", 3),
        ("cut/99/a", "cut short", 3),
        ("half/a", "not an image", 1),
        ("trickle/a", "timeout", 3),
        ("stall/a", "timeout", 3),
        ("html/a", "not an image", 1),
        ("gzip/a", "not an image", 1),
        ("loop/a", "redirect", 6),
        ("redirect/file", "redirect", 1),
        ("redirect/port", "redirect", 1),
        ("redirect/images/en-us/photo_unavailable.png", "removed", 1),
        ("redirect/images/photo_unavailable_l.png", "removed", 1),
    ],
)
def test_what_goes_wrong_has_a_reason_and_leaves_no_file(
    path: str, reason: str, requests: int, server: Provider, tmp_path: Path
) -> None:
    before = server.asked(f"/{path}")
    summary, failed = _one(f"{server.url}/{path}", tmp_path)
    assert failed["reason"] == reason, failed
    assert failed["detail"]
    assert dict(summary.failed) == {reason: 1}
    assert server.asked(f"/{path}") - before == requests
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize(
    "path",
    [
        "reset/2/x",
        "cut/2/y",
        "error/500/2/-/x",
        "error/503/1/1/x",
        "error/429/2/0/x",
        "redirect/redirect/ok/z",
        "plain/a",
    ],
)
def test_what_passes_is_overcome(path: str, server: Provider, tmp_path: Path) -> None:
    summary, failed = _one(f"{server.url}/{path}", tmp_path)
    assert failed == {}
    assert (tmp_path / "coco" / "a.jpg").read_bytes() == photo(path.rpartition("/")[2])
    assert summary.fetched == 1


@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://127.0.0.1/a", "file:///etc/passwd", "http://", "javascript:1", "//a/b", "http://[::1",
        "http://127.0.0.1:65536/a", "http://127.0.0.1:0/a",
    ],
)  # fmt: skip
def test_links_of_another_kind_are_not_followed(url: str, tmp_path: Path) -> None:
    _, failed = _one(url, tmp_path)
    assert failed["reason"] in ("link", "no link")


def test_nobody_listening_is_a_failed_connection(tmp_path: Path) -> None:
    _, failed = _one("http://127.0.0.1:9/a.jpg", tmp_path)
    assert failed["reason"] == "connection"


def test_what_nobody_foresaw_of_one_image_stops_no_other(
    server: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = httpx.AsyncClient.stream

    def odd(client: httpx.AsyncClient, method: str, url: httpx.URL) -> object:
        if url.path == "/ok/odd":
            raise OverflowError("unforeseen")
        return stream(client, method, url)

    monkeypatch.setattr(httpx.AsyncClient, "stream", odd)
    images = plan([_row(server, f"ok/{name}", i) for i, name in enumerate(("a", "odd", "b"))], "test")
    summary = download(images, tmp_path, QUICK, progress=False)
    assert (summary.fetched, dict(summary.failed)) == (2, {"connection": 1})
    assert "OverflowError: unforeseen" in (tmp_path / "failures.csv").read_text()


def test_a_length_that_the_manifest_tells_is_checked(server: Provider, tmp_path: Path) -> None:
    size = len(photo("a.jpg"))
    assert _one(f"{server.url}/ok/a.jpg", tmp_path / "a", size=str(size))[0].fetched == 1
    _, failed = _one(f"{server.url}/ok/a.jpg", tmp_path / "b", size=str(size - 1))
    assert failed["reason"] == "size"
    assert f"expected {size - 1} bytes, got {size}" in failed["detail"]


@pytest.mark.parametrize("path", ["endless/a", "ok/a"])
def test_no_image_is_larger_than_allowed(path: str, server: Provider, tmp_path: Path) -> None:
    config = DownloadConfig(fetch=FetchConfig(max_bytes=500))
    assert _one(f"{server.url}/{path}", tmp_path, config)[1]["reason"] == "too large"


def test_a_wait_that_is_too_long_is_left_for_another_run(server: Provider, tmp_path: Path) -> None:
    start = time.monotonic()
    _, failed = _one(f"{server.url}/error/429/9/3600/late", tmp_path)
    assert failed["reason"] == "too many requests"
    assert time.monotonic() - start < 4
    assert server.asked("/error/429/9/3600/late") == 1


def test_a_host_that_asks_for_a_pause_gets_it_from_all_requests(tmp_path: Path) -> None:
    with provider() as server:
        rows = [_row(server, f"ok/{i}", i) for i in range(20)]
        rows.insert(0, _row(server, "error/429/1/2/first", 99))
        start = time.monotonic()
        config = DownloadConfig(politeness=Politeness(connections=1, rate=0), fetch=FetchConfig())
        summary = download(plan(rows, "test"), tmp_path, config, progress=False)
    assert summary.fetched == 21
    assert 2 <= time.monotonic() - start < 8


def _row(server: Provider, path: str, number: int, checksum: str = "") -> dict[str, str]:
    name = f"{number:04d}.jpg"
    return {
        "source": "coco", "image_id": str(number), "url": f"{server.url}/{path}", "checksum": checksum, "size": "",
        "file_name": name,
    }  # fmt: skip


def test_a_host_never_sees_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    with provider(delay=0.02) as server:
        images = plan([_row(server, f"ok/{i}", i) for i in range(60)], "test")
        config = DownloadConfig(politeness=Politeness(connections=3, rate=0))
        download(images, tmp_path, config, progress=False)
        assert server.most_at_once == 3


def test_a_host_gets_no_more_requests_a_second_than_allowed(server: Provider, tmp_path: Path) -> None:
    images = plan([_row(server, f"ok/{i}", i) for i in range(21)], "test")
    start = time.monotonic()
    download(images, tmp_path, DownloadConfig(politeness=Politeness(rate=20)), progress=False)
    assert time.monotonic() - start >= 1.0


def test_a_slow_host_does_not_hold_up_another(tmp_path: Path) -> None:
    with provider(delay=0.3) as slow, provider() as fast:
        rows = [_row(slow, f"ok/{i}", i) for i in range(16)] + [
            _row(fast, f"ok/{i}", 100 + i) for i in range(50)
        ]
        config = DownloadConfig(connections=4, politeness=Politeness(connections=2, rate=0))
        start = time.monotonic()
        download(plan(rows, "test"), tmp_path, config, progress=False)
        assert time.monotonic() - start < 16 / 2 * 0.3 + 2
        assert sum(fast.counts.values()) == 50


def test_a_second_run_asks_for_nothing(server: Provider, tmp_path: Path) -> None:
    images = plan([_row(server, f"ok/again{i}", i) for i in range(10)], "test")
    download(images, tmp_path, QUICK, progress=False)
    summary = download(images, tmp_path, QUICK, progress=False)
    assert (summary.there, summary.fetched) == (10, 0)
    assert max(server.asked(f"/ok/again{i}") for i in range(10)) == 1


def test_failures_that_may_pass_are_tried_again_and_others_on_demand(
    server: Provider, tmp_path: Path
) -> None:
    once = DownloadConfig(politeness=Politeness(rate=0), fetch=FetchConfig(retries=0, timeout=1))
    rows = [_row(server, "error/500/1/-/passes", 1), _row(server, "error/404/1/-/stays", 2)]
    images = plan(rows, "test")
    first = download(images, tmp_path, once, progress=False)
    assert dict(first.failed) == {"server error": 1, "not found": 1}
    second = download(images, tmp_path, once, progress=False)
    assert (second.fetched, second.not_tried, dict(second.failed)) == (1, 1, {"not found": 1})
    assert server.asked("/error/404/1/-/stays") == 1
    third = download(images, tmp_path, replace(once, retry_failed=True), progress=False)
    assert (third.there, third.fetched, dict(third.failed)) == (1, 1, {})


def test_placeholders_that_the_user_names_are_removed_and_counted(server: Provider, tmp_path: Path) -> None:
    rows = [_row(server, f"placeholder/{i}", i) for i in range(4)] + [_row(server, "ok/fine", 9)]
    images = plan(rows, "test")
    first = download(images, tmp_path, QUICK, progress=False)
    digest = _md5(photo("placeholder"))
    assert first.suspicious == {digest: 4}
    fetch = FetchConfig(placeholders=known_placeholders([digest]))
    second = download(images, tmp_path, DownloadConfig(fetch=fetch), progress=False)
    assert dict(second.failed) == {"removed": 4}
    assert [Path(path).name for path in list_images(tmp_path)] == ["0009.jpg"]


def test_a_published_checksum_is_believed_more_than_the_list_of_placeholders(
    server: Provider, tmp_path: Path
) -> None:
    digest = _md5(photo("placeholder"))
    config = DownloadConfig(fetch=FetchConfig(placeholders=known_placeholders([digest])))
    assert _one(f"{server.url}/placeholder/a", tmp_path, config, checksum=digest)[0].fetched == 1


def test_images_that_are_there_already_are_taken_up_if_they_are_whole(
    server: Provider, tmp_path: Path
) -> None:
    images = plan([_row(server, f"ok/mine{i}", i) for i in range(4)], "test")
    (tmp_path / "coco").mkdir()
    for i in (0, 1):
        (tmp_path / images[i].path).write_bytes(photo(f"mine{i}"))
    cut(tmp_path / images[1].path)
    (tmp_path / images[2].path).write_text("not an image")
    summary = download(images, tmp_path, QUICK, progress=False)
    assert (summary.there, summary.fetched) == (1, 3)
    assert [(tmp_path / image.path).read_bytes() for image in images] == [photo(f"mine{i}") for i in range(4)]


def test_a_file_that_was_cut_after_its_download_is_fetched_again(server: Provider, tmp_path: Path) -> None:
    images = plan([_row(server, "ok/later", 1)], "test")
    download(images, tmp_path, QUICK, progress=False)
    cut(tmp_path / images[0].path)
    assert download(images, tmp_path, QUICK, progress=False).fetched == 1


def test_two_downloads_never_share_a_folder_at_once(tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".nds_download.lock"),
        pytest.raises(NDSError, match="another download is running"),
    ):
        download(_wanted("http://127.0.0.1/a"), tmp_path, QUICK, progress=False)


def test_a_file_that_cannot_be_written_does_not_stop_the_others(server: Provider, tmp_path: Path) -> None:
    rows = [_row(server, f"ok/{i}", i) for i in range(3)]
    rows[0]["file_name"], rows[1]["file_name"] = "a", "a/b.jpg"
    summary = download(plan(rows, "test"), tmp_path, replace(QUICK, connections=1), progress=False)
    assert (summary.fetched, dict(summary.failed)) == (2, {"file": 1})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "MPO"])
def test_images_of_the_usual_formats_are_images(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a", kind)
    assert image_fault(tmp_path / "a", decode=True) is None


def test_files_that_pillow_would_hand_to_other_programs_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "EPS, a format that Pillow knows but does not decode" in str(image_fault(path, decode=True))


def test_a_full_disk_ends_the_download_and_what_was_fetched_stays(server: Provider, tmp_path: Path) -> None:
    images = plan([_row(server, "ok/small", 1), _row(server, "large/big", 2)], "test")
    one_by_one = DownloadConfig(connections=1, politeness=Politeness(connections=1, rate=0))
    with full_disk(150_000), pytest.raises(NDSError, match=r"disk full while writing .*0002\.jpg"):
        download(images, tmp_path, one_by_one, progress=False)
    assert [Path(path).name for path in list_images(tmp_path)] == ["0001.jpg"]
    summary = download(images, tmp_path, one_by_one, progress=False)
    assert (summary.there, summary.fetched) == (1, 1)


def test_a_download_that_is_interrupted_says_so_and_goes_on(tmp_path: Path) -> None:
    with provider(delay=0.1) as server:
        manifest = tmp_path / "manifest.csv"
        with open(manifest, "w", newline="") as file:
            writer = csv.DictWriter(file, list(_row(server, "", 0)))
            writer.writeheader()
            writer.writerows(_row(server, f"ok/{i}", i) for i in range(60))
        command = [
            sys.executable,
            str(ROOT / "tools" / "nds_client.py"),
            "download",
            "--manifest",
            str(manifest),
        ]
        command += ["--output", str(tmp_path / "images"), "--rate", "0"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        while not sum(server.counts.values()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "stopped; the same command goes on from what it has kept."
        assert "Traceback" not in err
        assert len(list((tmp_path / "images").rglob("*.jpg"))) < 60
        assert subprocess.run(command, env=env, stdout=subprocess.DEVNULL).returncode == 0
        assert len(list_images(tmp_path / "images")) == 60


_SCRIPT = """
import sys
from nds_plugin.service.client.download import DownloadConfig, download
from nds_plugin.service.client.hosts import Politeness
from nds_plugin.service.client.manifest import read_manifest
config = DownloadConfig(politeness=Politeness(connections=4, rate=0))
download(read_manifest(sys.argv[1]), sys.argv[2], config, progress=False)
"""


def test_a_download_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    count = 400
    with provider(delay=0.01) as server:
        manifest = tmp_path / "manifest.csv"
        with open(manifest, "w", newline="") as file:
            writer = csv.DictWriter(file, list(_row(server, "", 0)))
            writer.writeheader()
            writer.writerows(
                _row(server, f"ok/{i}", i, _md5(photo(str(i))) if i % 2 else "") for i in range(count)
            )
        kills = 0
        while True:
            process = subprocess.Popen(
                [sys.executable, "-c", _SCRIPT, str(manifest), str(tmp_path / "images")]
            )
            try:
                process.wait(timeout=1.2 if kills < 3 else 60)
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                # At no time is there an image that is not whole.
                for path in (tmp_path / "images").rglob("*.jpg"):
                    assert path.read_bytes() == photo(str(int(path.stem)))
        assert process.returncode == 0
        assert kills > 0
        assert len(list_images(tmp_path / "images")) == count
        assert not list((tmp_path / "images").rglob(".nds_parts"))
        repeated = sum(server.counts.values()) - count
        # Only what was under way at a kill is asked for twice.
        assert repeated <= kills * 4
