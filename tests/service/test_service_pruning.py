"""Pruning: old sets go, and never one that is current or that a search refers to, whatever happens beside it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from as_user import User
from postgres import running_postgres
from service_demo import copied, parts_of, running
from starlette.testclient import TestClient

from nds_plugin.service.published.publishing import publish
from nds_plugin.service.published.store import Store
from nds_plugin.service.server import pruning
from nds_plugin.service.server.app import create_app
from nds_plugin.service.server.pruning import books, prune, searches_by_set
from nds_plugin.service.server.settings import Limits, Settings

pytestmark = pytest.mark.slow

FREE = ("--requests-per-minute", "0", "--heavy-per-minute", "0")


@pytest.fixture
def store(service_store: Path, tmp_path: Path) -> Path:
    """A store with four sets, the last of which is current."""
    folder = copied(service_store, tmp_path / "copy")
    for number in range(3):
        another(folder, number)
    return folder


def another(store: Path, number: int) -> str:
    """Publish the same experts with other notes, which is another set."""
    parts = parts_of(store)
    parts["notes"].write_text(f"street: {{homepage: 'https://example.org/{number}'}}")
    return publish(store, **parts)


def api(store: Path, database: str = "") -> TestClient:
    limits = Limits(requests_per_minute=0, heavy_per_minute=0)
    return TestClient(
        create_app(Settings(store, database=database, limits=limits)), base_url="http://test/api/v1"
    )


def search(client: Any, seed: int = 0) -> dict[str, Any]:
    current = client.get("/health").json()["expert_set"]
    body = {"expert_set": current, "budget": 5, "selector": "uniform", "seed": seed}
    found: dict[str, Any] = client.post("/searches", json=body).json()
    return found


def use(store: Path, set_id: str) -> str:
    """A search that refers to an old set; its token."""
    current = Store(store).current_id()
    Store(store).make_current(set_id)
    with api(store) as client:
        token = str(search(client)["token"])
    Store(store).make_current(current)
    return token


def test_the_current_set_the_newest_and_those_of_searches_stay(store: Path) -> None:
    newest, third, second, first = Store(store).ids()
    Store(store).make_current(third)
    use(store, first)
    assert prune(store, 1, books(store, []), dry_run=True) == [second]
    assert Store(store).ids() == [newest, third, second, first]
    assert prune(store, 1, books(store, [])) == [second]
    assert Store(store).ids() == [newest, third, first]
    assert prune(store, 0, books(store, [])) == [newest]
    assert [path.name for path in (store / "sets").glob("*")] == [
        path.name for path in (store / "sets").glob("[0-9a-f]*")
    ]


def test_a_set_goes_once_its_searches_were_deleted(store: Path) -> None:
    oldest = Store(store).ids()[-1]
    token = use(store, oldest)
    assert oldest not in prune(store, 4, books(store, []))
    with api(store) as client:
        headers = {"Authorization": f"Bearer {token}"}
        [kept] = client.get("/searches", headers=headers).json()["searches"]
        assert oldest not in prune(store, 0, books(store, []))
        assert (
            client.get(kept["result"]["links"]["images"].removeprefix("/api/v1"), headers=headers).status_code
            == 200
        )
        client.delete(f"/searches/{kept['id']}", headers=headers)
    assert prune(store, 0, books(store, [])) == [oldest]


def test_a_set_that_a_killed_prune_left_aside_is_put_back_where_a_search_refers_to_it(store: Path) -> None:
    *_, second, first = Store(store).ids()
    use(store, first)
    for set_id in (first, second):
        os.rename(store / "sets" / set_id, store / "sets" / f".pruning-{set_id}")
    prune(store, 4, books(store, []))
    assert first in Store(store).ids()
    assert second not in Store(store).ids()
    assert not list((store / "sets").glob(".pruning-*"))


def test_a_search_that_is_kept_while_its_set_is_set_aside_finds_it_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = Store(store).ids()[-1]
    found, asked = books(store, []), []

    def late(some: Any, *since: str) -> Any:
        asked.append(some)
        if len(asked) == 2:  # renamed aside by now
            request = {"budget": 1}
            found[0].add(found[0].new_token(), oldest, request, {})
        return searches_by_set(some, *since)

    monkeypatch.setattr(pruning, "searches_by_set", late)
    Store(store).make_current(Store(store).ids()[0])
    assert oldest not in prune(store, 3, found)
    assert oldest in Store(store).ids()


def test_a_search_whose_set_went_meanwhile_is_refused_and_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api(store) as client:
        book = client.app.state.context.book  # type: ignore[attr-defined]
        add = book.add

        def slow(token: str, expert_set: str, *others: Any) -> Any:
            another(store, 7)
            prune(store, 0, books(store, []))
            return add(token, expert_set, *others)

        monkeypatch.setattr(book, "add", slow)
        answer = search(client)
        assert answer["status"] == 409
        assert "was removed meanwhile" in answer["detail"]
        assert book.count()["searches"] == 0
        monkeypatch.setattr(book, "add", add)
        assert search(client)["result"]["images"] == 5


def test_a_set_that_was_removed_cannot_become_current(store: Path) -> None:
    oldest = Store(store).ids()[-1]
    assert oldest in prune(store, 1, books(store, []))
    with pytest.raises(KeyError):
        Store(store).make_current(oldest)


def test_searches_go_on_beside_a_publisher_and_a_pruner(store: Path) -> None:
    seen: list[str] = []
    with running(store, *FREE) as address:
        stop = threading.Event()

        def visitor(number: int) -> None:
            with httpx.Client(base_url=f"{address}/api/v1", timeout=30) as client:
                while not stop.is_set():
                    assert client.get("/expert-sets").status_code == 200
                    made = search(client, number)
                    if made.get("status") in (404, 409):
                        seen.append("stale")  # the set was replaced between the two requests
                        continue
                    headers = {"Authorization": f"Bearer {made['token']}"}
                    lines = client.get(f"/searches/{made['id']}/manifest", headers=headers)
                    assert len(lines.text.splitlines()) == 6, lines.text
                    assert client.delete(f"/searches/{made['id']}", headers=headers).status_code == 204
                    seen.append("good")

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(visitor, number) for number in range(2)]
            removed = 0
            for number in range(4):
                another(store, 100 + number)
                removed += len(prune(store, 0, books(store, [])))
                time.sleep(0.2)
            stop.set()
            for job in jobs:
                job.result()
    assert removed >= 4
    assert seen.count("good") > 8


def test_old_searches_and_idle_tokens_can_be_forgotten(store: Path, user: User) -> None:
    with api(store) as client:
        book = client.app.state.context.book  # type: ignore[attr-defined]
        token = search(client)["token"]
        book.new_token()
        said = user.runs("serve", "prune", "--store", store, "--keep", 9, "--forget-days", 1)
        assert "deleted 0 searches and 0 tokens" in said
        assert book.forget(time.time() + 1) == {"searches": 1, "tokens": 2}
        assert not book.knows(token)


def test_a_dry_run_tells_what_would_be_forgotten_and_what_goes_with_it(store: Path, user: User) -> None:
    newest, *others = Store(store).ids()
    use(store, others[-1])
    assert Store(store).current_id() == newest
    some_microseconds = 1e-10
    command = ("serve", "prune", "--store", store, "--keep", 1, "--forget-days", some_microseconds)
    told = user.runs(*command, "--dry-run")
    assert told.splitlines() == [
        "would delete 1 searches and 1 tokens", f"would remove 3 sets: {', '.join(others)}",
    ]  # fmt: skip
    assert user.runs(*command) == told.replace("would delete", "deleted").replace("would remove", "removed")


def test_the_tool_lists_and_prunes(store: Path, user: User) -> None:
    newest, third, second, first = Store(store).ids()
    use(store, first)
    lines = user.runs("serve", "sets", "--store", store).splitlines()
    assert [line[2:18] for line in lines] == [newest, third, second, first]
    assert [line[:2] for line in lines] == ["* ", "  ", "  ", "  "]
    assert lines[3].endswith("1 searches")
    assert lines[2].endswith("0 searches")
    assert f"would remove 2 sets: {third}, {second}" in user.runs(
        "serve", "prune", "--store", store, "--keep", 1, "--dry-run"
    )
    assert f"removed 2 sets: {third}, {second}" in user.runs("serve", "prune", "--store", store, "--keep", 1)
    assert "removed 0 sets" in user.runs("serve", "prune", "--store", store, "--keep", 1)
    assert "--keep should be 0 or more" in user.fails("serve", "prune", "--store", store, "--keep", -1)


def test_a_database_that_a_server_used_must_be_named(store: Path, user: User) -> None:
    oldest = Store(store).ids()[-1]
    with running_postgres() as url:
        Store(store).make_current(oldest)
        with (
            running(store, "--database", url) as address,
            httpx.Client(base_url=f"{address}/api/v1") as client,
        ):
            search(client)
        Store(store).make_current(Store(store).ids()[0])
        said = user.fails("serve", "prune", "--store", store, "--keep", 1)
        assert "searches are kept in postgresql://" in said
        assert "name it by --database" in said
        listed = user.runs("serve", "sets", "--store", store)
        assert "without the searches in postgresql://" in listed
        assert "removed 2 sets" in user.runs(
            "serve", "prune", "--store", store, "--keep", 1, "--database", url
        )
    assert oldest in Store(store).ids()
    known = json.loads((store / "databases.json").read_text())["databases"]
    assert len(known) == 1
    assert "@" not in known[0]
