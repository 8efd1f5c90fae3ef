"""Hostile requests against the running server: each is refused with a 4xx, and the server goes on as before."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_demo import copied, running

from nds_plugin.service.set_limits import MAX_BODY

pytestmark = pytest.mark.slow

FREE = ("--requests-per-minute", "0", "--heavy-per-minute", "0")
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}


class Canary:
    """Leaves a file where it is unpickled by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def server(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    store = copied(service_store, tmp_path_factory.mktemp("hostile") / "copy")
    with running(store, *FREE) as address, httpx.Client(base_url=f"{address}/api/v1", timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def good(server: httpx.Client) -> dict[str, Any]:
    scores = {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4], "metric": "accuracy"}
    return {"expert_set": server.get("/health").json()["expert_set"], "scores": scores, "budget": 30}


def check(answer: httpx.Response, *statuses: int) -> None:
    """A problem of one of these statuses that repeats nothing of what was sent."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 10_000
    assert "Traceback" not in answer.text


def zip_bomb() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z.json", b"0" * 20_000_000)
    return sink.getvalue()


DEEP = b"[" * 250_000 + b"]" * 250_000
BODIES = {
    "nothing": b"",
    "text": b"hello",
    "cut short": b'{"expert_set": "00',
    "not utf-8": b'{"title": "\xff\xfe"}',
    "utf-16": '{"budget": 1}'.encode("utf-16"),
    "deep list": DEEP,
    "deep dict": b'{"a":' * 80_000 + b"1" + b"}" * 80_000,
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "a number": b"1e999",
    "an endless number": b"9" * 500_000,
    "pickle": pickle.dumps({"z": [1.0]}),
    "gzip": gzip.compress(b"0" * 10_000_000),
    "zip bomb": zip_bomb(),
    "10 MB": b'{"title": "' + b"a" * 10_000_000 + b'"}',
    "one byte too many": b" " * MAX_BODY + b"{",
    "clusters without end": b'{"scores": {"clusters": [' + b"-1," * 160_000 + b"-1]}}",
    "repeated": b'{"budget": 1}{"budget": 2}',
}


@pytest.mark.parametrize("path", ["/searches", "/preview"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_search_is_refused(server: httpx.Client, path: str, name: str) -> None:
    check(server.post(path, content=BODIES[name], headers=JSON), 400, 413, 422)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/octet-stream",
        "ÿ",
        "/",
    ],
)
def test_a_body_of_another_content_type_is_refused(
    server: httpx.Client, good: dict[str, Any], kind: str
) -> None:
    headers = {"Content-Type": kind.encode("latin1")} if kind else {}
    check(server.post("/searches", content=json.dumps(good).encode(), headers=headers), 415, 422)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_a_compressed_body_is_refused_unread(
    server: httpx.Client, good: dict[str, Any], encoding: str
) -> None:
    body = gzip.compress(json.dumps(good).encode())
    check(server.post("/searches", content=body, headers={**JSON, "Content-Encoding": encoding}), 415)


Z = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e300",
    "9" * 400,
    '"0.5"',
    "null",
    "true",
    "[]",
    "{}",
)


@pytest.mark.parametrize("value", Z)
def test_a_score_that_is_no_sensible_number_is_refused(
    server: httpx.Client, good: dict[str, Any], value: str
) -> None:
    text = json.dumps(good).replace("0.9", value)
    check(server.post("/searches", content=text.encode(), headers=JSON), 400, 422)


CHANGES: dict[str, dict[str, Any]] = {
    "too few scores": {"scores": {"clusters": [0, 1], "z": [1, 2], "metric": "relative_accuracy"}},
    "too many scores": {
        "scores": {"clusters": [0, 1, 2, 3], "z": [1, 2, 3, 4], "metric": "relative_accuracy"}
    },
    "scores and clusters differ": {
        "scores": {"clusters": [0, 1, 2], "z": [1, 2], "metric": "relative_accuracy"}
    },
    "a cluster twice": {"scores": {"clusters": [0, 1, 1], "z": [1, 2, 3], "metric": "relative_accuracy"}},
    "negative cluster": {"scores": {"clusters": [0, 1, -1], "z": [1, 2, 3], "metric": "relative_accuracy"}},
    "huge cluster": {"scores": {"clusters": [0, 1, 2**70], "z": [1, 2, 3], "metric": "relative_accuracy"}},
    "no metric": {"scores": {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4]}},
    "unknown metric": {"scores": {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4], "metric": "posterior"}},
    "no accuracies": {"scores": {"clusters": [0, 1, 2], "z": [-0.9, -0.7, -0.4], "metric": "accuracy"}},
    "no log-likelihoods": {
        "scores": {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4], "metric": "log_likelihood"}
    },
    "no scores": {"scores": None},
    "scores as text": {"scores": "0.9,0.7,0.4"},
    "extra field in scores": {
        "scores": {
            "clusters": [0, 1, 2],
            "z": [1, 2, 3],
            "metric": "relative_accuracy",
            "images": ["cat.jpg"],
        }
    },
    "extra field": {"callback": "http://169.254.169.254/latest/meta-data"},
    "proto": {"__proto__": {"admin": True}},
    "budget 0": {"budget": 0},
    "budget negative": {"budget": -5},
    "budget too large": {"budget": 73},
    "budget huge": {"budget": 10**30},
    "budget a fraction": {"budget": 3.5},
    "budget as text": {"budget": "30"},
    "budget true": {"budget": True},
    "both budgets": {"share": 0.5},
    "no budget": {"budget": None},
    "share 0": {"budget": None, "share": 0},
    "share above 1": {"budget": None, "share": 1.5},
    "temperature 0": {"temperature": 0},
    "temperature tiny": {"temperature": 1e-300},
    "temperature as text": {"temperature": "hot"},
    "seed negative": {"seed": -1},
    "seed huge": {"seed": 2**64},
    "unknown selector": {"selector": "full"},
    "unknown normalisation": {"normalisation": "softmax"},
    "no source": {"sources": []},
    "unknown source": {"sources": ["../../etc/passwd"]},
    "source with a NUL": {"sources": ["street\u0000"]},
    "sources as text": {"sources": "street"},
    "too many sources": {"sources": ["street"] * 1001},
    "set by path": {"expert_set": "../../etc/passwd"},
    "set by URL": {"expert_set": "http://127.0.0.1/"},
    "unknown set": {"expert_set": "0123456789abcdef"},
    "set of another length": {"expert_set": "0" * 17},
    "set with a newline": {"expert_set": "0123456789abcdef\n"},
    "long title": {"title": "a" * 201},
    "title no text": {"title": 5},
}


@pytest.mark.parametrize("path", ["/searches", "/preview"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_search_with_one_wrong_field_is_refused(
    server: httpx.Client, good: dict[str, Any], path: str, name: str
) -> None:
    check(server.post(path, json={**good, **CHANGES[name]}), 404, 422)


def test_a_lone_surrogate_is_refused(server: httpx.Client, good: dict[str, Any]) -> None:
    text = json.dumps({**good, "title": "X"}).replace('"X"', '"\\ud800"')
    check(server.post("/searches", content=text.encode(), headers=JSON), 422)


def test_a_title_is_only_text(server: httpx.Client, good: dict[str, Any]) -> None:
    title = "<script>alert(1)</script>\u0000'; DROP TABLE nds_searches; --"
    made = server.post("/searches", json={**good, "title": title}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert server.get(f"/searches/{made['id']}", headers=headers).json()["request"]["title"] == title
    assert "alert" not in server.get(f"/searches/{made['id']}/config", headers=headers).text


IDS = [
    "..", "../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "..%5c..%5cwindows", "%00", "a" * 6000,
    "0" * 31, "0" * 33, "G" * 32, "' OR 1=1 --", "%ff%fe", "0%0d%0aSet-Cookie:x=1", "*", "%", "0" * 32 + "%00", "%252e%252e%252f",
]  # fmt: skip


@pytest.mark.parametrize("search_id", IDS)
def test_an_id_that_is_none_reaches_nothing(
    server: httpx.Client, good: dict[str, Any], search_id: str
) -> None:
    token = server.post("/tokens").json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    for suffix in ("", "/manifest?format=csv", "/images", "/mosaic", "/config"):
        answer = server.get(f"/searches/{search_id}{suffix}", headers=headers)
        assert 400 <= answer.status_code < 500 or answer.url.path == "/api/v1/searches/", answer.text
    for url in (f"/expert-sets/{search_id}", f"/expert-sets/{good['expert_set']}/files/{search_id}"):
        answer = server.get(url)
        assert 400 <= answer.status_code < 500 or answer.url.path.startswith("/api/v1/expert-sets"), (
            answer.text
        )
        assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/%00", "/static/"]
)
def test_the_pages_folder_is_all_that_is_served_of_it(server: httpx.Client, path: str) -> None:
    answer = server.get(str(server.base_url.copy_with(path="/")).rstrip("/") + path)
    assert answer.status_code in (400, 404)
    assert "create_app" not in answer.text


@pytest.mark.parametrize(
    "query",
    ["cursor=-1", "cursor=x", "cursor=" + "9" * 40, "limit=0", "limit=1001", "limit=1e3", "cursor=%00"],
)
def test_odd_pages_are_refused(server: httpx.Client, good: dict[str, Any], query: str) -> None:
    made = server.post("/searches", json=good).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    check(server.get(f"/searches/{made['id']}/images?{query}", headers=headers), 422)
    past = server.get(f"/searches/{made['id']}/images?cursor=999999999999999", headers=headers)
    assert past.json() == {"images": [], "next": None}
    check(server.get(f"/searches/{made['id']}/manifest?format=exe", headers=headers), 422)


def test_no_pickle_is_ever_executed(server: httpx.Client, good: dict[str, Any], tmp_path: Path) -> None:
    url = f"/scores/fastadapt?expert_set={good['expert_set']}"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        canary = tmp_path / f"canary{protocol}"
        data = pickle.dumps({"nds": Canary(canary)}, protocol)
        check(server.post(url, content=data, headers=BYTES), 422)
        check(server.post("/searches", content=data, headers=JSON), 400, 422)
        assert not canary.exists()
        pickle.loads(data)  # the canary sings where a pickle is executed
        assert canary.exists()


Z_FILES = {
    "nothing": b"",
    "no pickle": b"hello",
    "cut short": pickle.dumps({"a": 1.0})[:-3],
    "a list": pickle.dumps([1.0]),
    "an empty dict": pickle.dumps({}),
    "other names": pickle.dumps({"e0.pth": 50.0}),
    "NaN": pickle.dumps({"nds_0123456789abcdef_expert_0000.pth": float("nan")}),
    "bomb of tuples": b"\x80\x02" + b")" + b"\x86" * 0 + b"2\x86" * 20_000 + b".",
    "zip": zip_bomb(),
    "too large": b"\x80\x04" + b"N0" * 40_000 + b".",
}


@pytest.mark.parametrize("name", Z_FILES)
def test_a_z_file_of_any_other_shape_is_refused(
    server: httpx.Client, good: dict[str, Any], name: str
) -> None:
    url = f"/scores/fastadapt?expert_set={good['expert_set']}"
    check(server.post(url, content=Z_FILES[name], headers=BYTES), 413, 422)


def test_a_z_file_of_another_content_type_is_refused(server: httpx.Client, good: dict[str, Any]) -> None:
    url = f"/scores/fastadapt?expert_set={good['expert_set']}"
    for kind in ("application/json", "text/plain", "application/x-pickle"):
        check(server.post(url, content=pickle.dumps({}), headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND", "POST"])
def test_other_methods_are_not_allowed(server: httpx.Client, method: str) -> None:
    check(server.request(method, "/sources"), 405)


def test_odd_range_headers_get_an_answer(server: httpx.Client, good: dict[str, Any]) -> None:
    url = f"/expert-sets/{good['expert_set']}/files/manifest.json"
    for value in (
        "bytes=",
        "bytes=-",
        "bytes=9-1",
        "bytes=a-b",
        "lines=0-1",
        "bytes=0-0," * 2000,
        "bytes=-99999999999",
    ):
        answer = server.get(url, headers={"Range": value})
        assert answer.status_code in (200, 206, 400, 416), (value, answer.status_code)


def test_after_all_this_the_server_answers_as_before(server: httpx.Client, good: dict[str, Any]) -> None:
    assert server.get("/health").json()["status"] == "ok"
    assert server.post("/searches", json=good).status_code == 201
