"""The service below a path of somebody else's server: a proxy takes the path away, uvicorn puts it before each request's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from service_demo import copied
from starlette.testclient import TestClient

from nds_plugin.service.server.app import create_app, is_heavy, is_page
from nds_plugin.service.server.settings import Settings


@pytest.fixture(scope="module")
def client(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = copied(service_store, tmp_path_factory.mktemp("prefix") / "copy")
    with TestClient(create_app(Settings(store)), base_url="http://test", root_path="/nds") as client:
        yield client


def test_links_begin_with_the_path(client: TestClient) -> None:
    current = client.get("/nds/api/v1/health").json()["expert_set"]
    files = client.get(f"/nds/api/v1/expert-sets/{current}").json()["files"]
    assert client.head(files[0]["url"]).status_code == 200
    body = {"expert_set": current, "budget": 5, "selector": "uniform"}
    made = client.post("/nds/api/v1/searches", json=body)
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    links = made.json()["result"]["links"]
    assert made.headers["location"] == links["self"]
    for link in (links["self"], links["images"], links["manifest"]["csv"]):
        assert link.startswith("/nds/api/v1/searches/")
        assert client.get(link, headers=headers).status_code == 200


def test_requests_cost_the_same_below_a_path() -> None:
    def scope(path: str, method: str = "GET") -> dict[str, str]:
        return {"path": path, "method": method, "root_path": "/nds"}

    assert is_heavy(scope("/nds/api/v1/searches", "POST"))
    assert is_page(scope("/nds/"))
    assert is_page(scope("/nds/static/app.js"))
    assert not is_page(scope("/nds/api/v1/health"))


@pytest.mark.parametrize("path", ["/nds/", "/nds/api/v1/health"])
def test_those_who_only_look_whether_it_is_there_may_ask_for_the_head(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == 200
