"""The API: what the contract of the service promises, on a small published store."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from service_demo import ADMIN, copied, other_experts, parts_of
from starlette.testclient import TestClient

from nds_plugin.selection.selection import Selection
from nds_plugin.service.published.publishing import publish
from nds_plugin.service.published.store import Store
from nds_plugin.service.server.app import create_app
from nds_plugin.service.server.settings import Limits, Settings, token_hash

FREE = Limits(requests_per_minute=0, heavy_per_minute=0)


def client_of(store: Path, **settings: Any) -> TestClient:
    """A client of an app on the store."""
    app = create_app(Settings(store, limits=FREE, admin_hash=token_hash(ADMIN), **settings))
    return TestClient(app, base_url="http://test/api/v1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def store(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(service_store, tmp_path_factory.mktemp("api") / "copy")


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[TestClient]:
    with client_of(store) as client:
        yield client


@pytest.fixture(scope="module")
def current(client: TestClient) -> str:
    return str(client.get("/health").json()["expert_set"])


@pytest.fixture
def body(current: str) -> dict[str, Any]:
    scores = {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4], "metric": "accuracy"}
    return {"expert_set": current, "scores": scores, "budget": 30, "temperature": 0.5}


@pytest.fixture
def search(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/searches", json=body)
    assert answer.status_code == 201
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: Any, status: int, *words: str) -> dict[str, Any]:
    """The problem in an answer, of this status and with these words in its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    for word in words:
        assert word in problem["detail"]
    return dict(problem)


def test_sources_are_listed_with_their_clusters_licences_and_homepages(client: TestClient) -> None:
    document = client.get("/sources").json()
    assert [source["name"] for source in document["sources"]] == ["street", "meadow", "room"]
    street = document["sources"][0]
    assert (street["images"], street["linked_images"], street["clusters"]) == (24, 24, [0])
    assert street["cluster_images"] == {"0": 24}
    assert street["homepage"] == "https://example.org/street"
    assert street["licenses"] == ["CC0 (synthetic)"]
    assert "car" in street["classes"]
    assert street["thumbnails_allowed"] is False  # the server does not allow it


def test_expert_sets_name_their_files_sizes_and_hashes(client: TestClient, current: str) -> None:
    (entry,) = client.get("/expert-sets").json()["expert_sets"]
    assert entry["id"] == current
    assert entry["current"] is True
    assert (entry["num_clusters"], entry["crop_size"], entry["task"]) == (3, 32, "rotation")
    detail = client.get(f"/expert-sets/{current}").json()
    assert detail["manifest"]["hash"] == entry["hash"]
    assert sum(file["bytes"] for file in detail["files"]) == entry["bytes"]
    for file in detail["files"]:
        data = client.get(file["url"].removeprefix("/api/v1")).content
        assert len(data) == file["bytes"]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]


def test_expert_files_resume_by_ranges_and_are_not_sent_twice(client: TestClient, current: str) -> None:
    file = client.get(f"/expert-sets/{current}").json()["files"][1]
    url = f"/expert-sets/{current}/files/{file['name']}"
    whole = client.get(url)
    assert whole.headers["etag"] == f'"{file["sha256"]}"'
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(file["bytes"]), b"")
    start = file["bytes"] - 1000
    rest = client.get(url, headers={"Range": f"bytes={start}-", "If-Range": whole.headers["etag"]})
    assert rest.status_code == 206
    assert rest.content == whole.content[start:]
    assert rest.headers["content-range"] == f"bytes {start}-{file['bytes'] - 1}/{file['bytes']}"
    other = client.get(url, headers={"Range": "bytes=5-", "If-Range": '"another"'})
    assert other.status_code == 200
    assert client.get(url, headers={"Range": f"bytes={file['bytes']}-"}).status_code == 416
    for tag in (whole.headers["etag"], f'"x", {whole.headers["etag"]}', f"W/{whole.headers['etag']}", "*"):
        again = client.get(url, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name", ["set.json", "../set.json", "..%2fset.json", "%2e%2e%2f%2e%2e%2fset.json", "x", "%00"]
)
def test_only_the_listed_files_are_served(client: TestClient, current: str, name: str) -> None:
    answer = client.get(f"/expert-sets/{current}/files/{name}")
    assert answer.status_code == 404


@pytest.mark.parametrize("set_id", ["..", "%2e%2e", "0" * 16, "..%2f..%2fetc", "a" * 5000, "%00", "ÿ"])
def test_unknown_sets_are_not_found(client: TestClient, set_id: str) -> None:
    assert client.get(f"/expert-sets/{set_id}").status_code == 404
    assert client.get(f"/expert-sets/{set_id}/files/manifest.json").status_code == 404


def test_a_search_keeps_to_the_budget_and_tells_shares_and_links(
    search: dict[str, Any], current: str
) -> None:
    result = search["result"]
    assert (result["images"], result["budget"], result["drawable"]) == (30, 30, 72)
    assert sum(result["share_by_source"].values()) == pytest.approx(1)
    assert sum(result["share_by_cluster"]) == pytest.approx(1)
    assert sum(result["w"]) == pytest.approx(1)
    assert (result["z"], result["z_scaled"][0], result["z_scaled"][2]) == ([0.9, 0.7, 0.4], 1, 0)
    assert search["expert_set"] == search["request"]["expert_set"] == current
    assert set(result["links"]["manifest"]) == {"csv", "json", "parquet", "coco"}


def test_a_preview_is_the_result_without_a_draw(
    client: TestClient, body: dict[str, Any], search: dict[str, Any]
) -> None:
    preview = client.post("/preview", json=body).json()
    assert preview == {name: search["result"][name] for name in preview}


def test_only_the_holder_of_the_token_sees_a_search(
    client: TestClient, search: dict[str, Any], body: dict[str, Any]
) -> None:
    url, own = f"/searches/{search['id']}", bearer(search["token"])
    other = bearer(client.post("/searches", json=body).json()["token"])
    for path in ("", "/images", "/manifest", "/config", "/mosaic"):
        assert client.get(url + path, headers=own).status_code == 200
        refused(client.get(url + path), 401, "token")
        refused(client.get(url + path, headers=bearer("nds_wrong")), 401, "unknown token")
        refused(client.get(url + path, headers=other), 404)
    refused(client.delete(url, headers=other), 404)
    assert "token" not in {k for k, v in client.get(url, headers=own).json().items() if v is not None}
    assert client.delete(url, headers=own).status_code == 204
    refused(client.get(url, headers=own), 404)
    refused(client.delete(url, headers=own), 404)


def test_tokens_are_stored_hashed(client: TestClient, search: dict[str, Any], store: Path) -> None:
    data = b"".join(path.read_bytes() for path in store.glob("searches.sqlite*"))
    assert token_hash(search["token"]).encode() in data
    assert search["token"].encode() not in data
    assert search["token"].removeprefix("nds_").encode() not in data


def test_own_searches_are_listed_in_pages_the_newest_first(client: TestClient, body: dict[str, Any]) -> None:
    token = client.post("/tokens").json()["token"]
    made = [
        client.post("/searches", json={**body, "seed": k}, headers=bearer(token)).json()["id"]
        for k in range(5)
    ]
    found: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/searches", params=parameters, headers=bearer(token)).json()
        found += [entry["id"] for entry in page["searches"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == made[::-1]


def test_a_search_under_a_token_shows_no_new_one_and_an_unknown_token_is_refused(
    client: TestClient, body: dict[str, Any]
) -> None:
    token = client.post("/tokens").json()["token"]
    answer = client.post("/searches", json=body, headers=bearer(token))
    assert answer.status_code == 201
    assert answer.json()["token"] is None
    assert answer.headers["location"] == f"/api/v1/searches/{answer.json()['id']}"
    refused(client.post("/searches", json=body, headers=bearer("nds_made_up")), 401, "unknown token")
    for header in ("Basic abc", "Bearer", "Bearer ", "Bearer " + "x" * 5000):
        refused(client.post("/searches", json=body, headers={"Authorization": header}), 401)


def test_a_repeated_request_makes_no_second_search(client: TestClient, body: dict[str, Any]) -> None:
    token = client.post("/tokens").json()["token"]
    headers = {**bearer(token), "Idempotency-Key": "0123456789"}
    first = client.post("/searches", json=body, headers=headers)
    again = client.post("/searches", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(client.get("/searches", headers=bearer(token)).json()["searches"]) == 1
    refused(client.post("/searches", json={**body, "seed": 9}, headers=headers), 422, "Idempotency-Key")
    refused(
        client.post("/searches", json={**body, "expert_set": "0" * 16}, headers=headers),
        422,
        "Idempotency-Key",
    )
    other = bearer(client.post("/tokens").json()["token"])
    assert (
        client.post("/searches", json=body, headers={**other, "Idempotency-Key": "0123456789"}).status_code
        == 201
    )


def test_the_images_in_pages_are_those_of_every_manifest(
    client: TestClient, search: dict[str, Any], tmp_path: Path
) -> None:
    url, headers = f"/searches/{search['id']}", bearer(search["token"])
    paged: list[dict[str, Any]] = []
    cursor = None
    while True:
        parameters = {"limit": 7, **({"cursor": cursor} if cursor else {})}
        page = client.get(f"{url}/images", params=parameters, headers=headers).json()
        paged += page["images"]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(paged) == len({(row["source"], row["image_id"]) for row in paged}) == 30

    def manifest(kind: str) -> Any:
        answer = client.get(f"{url}/manifest", params={"format": kind}, headers=headers)
        assert answer.status_code == 200
        assert f"nds-{search['id']}." in answer.headers["content-disposition"]
        return answer

    assert manifest("json").json()["images"] == paged
    rows = list(csv.DictReader(io.StringIO(manifest("csv").text)))
    assert list(rows[0]) == ["source", "image_id", "cluster", "p", "url", "license", "checksum", "file_name"]
    assert [{**row, "cluster": int(row["cluster"]), "p": float(row["p"])} for row in rows] == paged
    by_source: dict[str, list[int]] = {}
    for row in paged:
        by_source.setdefault(row["source"], []).append(int(row["image_id"]))
    assert manifest("coco").json() == by_source
    path = tmp_path / "selection.parquet"
    path.write_bytes(manifest("parquet").content)
    selection = Selection.load(path)
    assert selection.column("url").to_pylist() == [row["url"] for row in paged]
    assert selection.info["expert_set"] == client.get("/expert-sets").json()["expert_sets"][0]["hash"]


def test_the_config_is_one_that_detectron2_takes(
    client: TestClient, search: dict[str, Any], tmp_path: Path
) -> None:
    answer = client.get(f"/searches/{search['id']}/config", headers=bearer(search["token"]))
    assert answer.headers["content-type"].startswith("text/yaml")
    assert yaml.safe_load(answer.text)["DATASETS"]["TRAIN"] == ["street", "meadow", "room"]
    from detectron2.config import get_cfg

    from nds_plugin.d2 import add_nds_config

    cfg = get_cfg()
    add_nds_config(cfg)
    path = tmp_path / "config.yaml"
    path.write_text(answer.text)
    cfg.merge_from_file(str(path))
    assert cfg.DATASETS.TRAIN == ("street", "meadow", "room")
    assert f"nds-{search['id']}.parquet" == cfg.NDS.SELECTION
    assert cfg.DATALOADER.SAMPLER_TRAIN == "NDSTrainingSampler"


def test_thumbnails_are_shown_only_where_both_licence_and_server_allow_it(
    client: TestClient, search: dict[str, Any], store: Path
) -> None:
    url, headers = f"/searches/{search['id']}/mosaic", bearer(search["token"])
    clusters = client.get(url, headers=headers).json()["clusters"]
    assert [entry["cluster"] for entry in clusters] == [0, 1, 2]
    assert all(len(entry["images"]) == 9 for entry in clusters)
    assert all(image["thumbnail"] is None and image["url"] for entry in clusters for image in entry["images"])
    policy = client.get("/health").headers["content-security-policy"]
    assert "img-src 'self' data:;" in policy
    with client_of(store, thumbnails=True) as showing:
        clusters = showing.get(url, headers=headers).json()["clusters"]
        assert all(image["thumbnail"] == image["url"] for entry in clusters for image in entry["images"])
        assert all(source["thumbnails_allowed"] for source in showing.get("/sources").json()["sources"])
        policy = showing.get("/health").headers["content-security-policy"]
        assert "img-src 'self' data: http://127.0.0.1:9;" in policy


def test_every_answer_carries_the_security_headers(client: TestClient, current: str) -> None:
    answers = [client.get(path) for path in ("/health", "/nothing", "/searches", "/openapi.json")]
    answers += [client.get("http://test/"), client.get("http://test/static/index.html")]
    answers += [
        client.post("/preview", content=b"x" * 70_000),
        client.get(f"/expert-sets/{current}/files/manifest.json"),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_even_a_defect_of_the_server_carries_the_security_headers(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(store) as client:
        monkeypatch.setattr(client.app.state.context.store, "current_id", lambda: 1 / 0)  # type: ignore[attr-defined]
        answer = client.get("/health")
    refused(answer, 500, "a defect of the server")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_scores_may_come_with_the_hash_of_their_experts(
    client: TestClient, body: dict[str, Any], current: str
) -> None:
    expert_hash = client.get("/expert-sets").json()["expert_sets"][0]["hash"]
    answer = client.post("/searches", json={**body, "expert_set": expert_hash})
    assert answer.status_code == 201
    assert answer.json()["expert_set"] == current
    refused(client.post("/searches", json={**body, "expert_set": "0" * 64}), 404)


@pytest.mark.parametrize("given", [False, True])
def test_a_uniform_search_needs_and_keeps_no_scores(
    given: bool, client: TestClient, body: dict[str, Any]
) -> None:
    scores = body["scores"] if given else None
    answer = client.post("/searches", json={**body, "scores": scores, "selector": "uniform"}).json()
    assert answer["request"]["scores"] is None
    assert answer["result"]["w"] == pytest.approx([1 / 3] * 3)
    assert answer["result"]["z"] is None
    mosaic = client.get(f"/searches/{answer['id']}/mosaic", headers=bearer(answer["token"])).json()
    assert mosaic["clusters"][0]["z"] is None
    refused(client.post("/preview", json={**body, "scores": None}), 422, "needs scores")


def test_scores_of_an_older_set_get_a_409_and_an_old_search_keeps_its_set(
    service_store: Path, tmp_path: Path, body: dict[str, Any]
) -> None:
    store = copied(service_store, tmp_path / "copy")
    with client_of(store) as client:
        search = client.post("/searches", json=body).json()
        url, headers = f"/searches/{search['id']}", bearer(search["token"])
        before = client.get(f"{url}/manifest", headers=headers).content
        experts = other_experts(store.parent / "experts0", store.parent / "experts1")
        new = publish(store, **{**parts_of(store), "experts": experts})
        assert client.get("/health").json()["expert_set"] == new
        for path in ("/preview", "/searches"):
            problem = refused(client.post(path, json=body), 409, body["expert_set"], new, "score again")
            assert (problem["expert_set"], problem["current"]) == (body["expert_set"], new)
        assert client.get(url, headers=headers).json()["expert_set"] == body["expert_set"]
        assert client.get(f"{url}/manifest", headers=headers).content == before
        assert client.post("/searches", json={**body, "expert_set": new}).status_code == 201
        back = client.post("/admin/current", json={"expert_set": body["expert_set"]}, headers=bearer(ADMIN))
        assert back.status_code == 200
        assert client.post("/searches", json=body).status_code == 201


def test_scores_of_a_set_whose_experts_still_serve_are_not_asked_for_again(
    service_store: Path, tmp_path: Path, body: dict[str, Any]
) -> None:
    store = copied(service_store, tmp_path / "copy")
    parts = parts_of(store)
    parts["notes"].write_text("street: {homepage: 'https://example.org/new'}")
    with client_of(store) as client:
        publish(store, **parts)
        problem = refused(
            client.post("/searches", json=body), 409, "its experts are the same, name their hash"
        )
        assert "score again" not in problem["detail"]
        same = client.get("/expert-sets").json()["expert_sets"][0]["hash"]
        assert client.post("/searches", json={**body, "expert_set": same}).status_code == 201


def test_only_the_admin_switches_sets_and_reads_statistics(
    client: TestClient, current: str, store: Path
) -> None:
    stats = client.get("/admin/stats", headers=bearer(ADMIN)).json()
    assert (stats["expert_set"], stats["expert_sets"]) == (current, [current])
    assert stats["rss_mb"] > 10
    for headers in ({}, bearer("wrong"), bearer(token_hash(ADMIN))):
        refused(client.get("/admin/stats", headers=headers), 401)
        refused(client.post("/admin/current", json={"expert_set": current}, headers=headers), 401)
    refused(client.post("/admin/current", json={"expert_set": "0" * 16}, headers=bearer(ADMIN)), 404)
    app = create_app(Settings(store, limits=FREE))
    with TestClient(app, base_url="http://test/api/v1") as without:
        refused(without.get("/admin/stats", headers=bearer("")), 403, "without an admin token")


def test_the_authors_z_file_gives_the_selection_of_our_own_scores(
    client: TestClient, body: dict[str, Any]
) -> None:
    import pickle

    from nds_plugin.service.fastadapt.scores import to_percentages

    expert_hash = client.get("/expert-sets").json()["expert_sets"][0]["hash"]
    data = pickle.dumps(to_percentages([0, 1, 2], body["scores"]["z"], expert_hash))
    url = f"/scores/fastadapt?expert_set={body['expert_set']}"
    answer = client.post(url, content=data, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 200
    scores = answer.json()
    assert scores["clusters"] == [0, 1, 2]
    assert scores["z"] == pytest.approx(body["scores"]["z"])
    given = {**body, "scores": {name: scores[name] for name in ("clusters", "z", "metric")}}
    pages = []
    for asked in (body, given):
        made = client.post("/searches", json=asked).json()
        pages.append(
            client.get(f"/searches/{made['id']}/images", headers=bearer(made["token"])).json()["images"]
        )
    assert [row["image_id"] for row in pages[0]] == [row["image_id"] for row in pages[1]]


def test_a_store_without_a_set_answers_503_until_one_is_published(
    service_store: Path, tmp_path: Path
) -> None:
    folder = copied(service_store, tmp_path / "copy").parent
    (folder / "empty").mkdir()
    with client_of(folder / "empty") as client:
        for path in ("/health", "/sources", "/expert-sets"):
            answer = client.get(path)
            refused(answer, 503, "nothing is published here yet")
            assert answer.headers["retry-after"] == "30"
        set_id = publish(folder / "empty", **parts_of(folder / "store"))
        assert client.get("/health").json()["expert_set"] == set_id


def test_a_damaged_set_is_the_servers_trouble_and_hides_no_other(
    service_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(service_store, tmp_path / "copy")
    parts = parts_of(folder)
    whole = publish(
        folder, **{**parts, "experts": other_experts(parts["experts"], folder.parent / "experts1")}
    )
    [damaged] = set(Store(folder).ids()) - {whole}
    (folder / "sets" / damaged / "set.json").write_text("{")
    with TestClient(create_app(Settings(folder)), base_url="http://test/api/v1") as client:
        assert [entry["id"] for entry in client.get("/expert-sets").json()["expert_sets"]] == [whole]
        answer = client.get(f"/expert-sets/{damaged}")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "this expert set is damaged on the server, whose log says more."
        assert client.get("/expert-sets/" + "0" * 16).status_code == 404
    assert f"the set {damaged} is damaged" in caplog.text


def test_a_token_has_a_limit_of_searches(service_store: Path, tmp_path: Path, body: dict[str, Any]) -> None:
    store = copied(service_store, tmp_path / "copy")
    limits = Limits(requests_per_minute=0, heavy_per_minute=0, searches_per_token=2)
    with TestClient(create_app(Settings(store, limits=limits)), base_url="http://test/api/v1") as client:
        token = bearer(client.post("/tokens").json()["token"])
        made = [client.post("/searches", json=body, headers=token) for _ in range(3)]
        assert [answer.status_code for answer in made] == [201, 201, 422]
        refused(made[2], 422, "has 2 searches already")
        client.delete(f"/searches/{made[0].json()['id']}", headers=token)
        assert client.post("/searches", json=body, headers=token).status_code == 201


def test_the_openapi_document_describes_every_path(client: TestClient) -> None:
    document = json.loads(client.get("/openapi.json").text)
    paths = {
        "/health", "/sources", "/expert-sets", "/expert-sets/{set_id}", "/expert-sets/{set_id}/files/{name}", "/preview",
        "/tokens", "/searches", "/searches/{search_id}", "/searches/{search_id}/images", "/searches/{search_id}/manifest",
        "/searches/{search_id}/config", "/searches/{search_id}/mosaic", "/scores/fastadapt", "/admin/current", "/admin/stats",
    }  # fmt: skip
    assert set(document["paths"]) == {f"/api/v1{path}" for path in paths}
    assert client.get("http://test/docs").status_code == 404  # its page would load scripts from elsewhere
