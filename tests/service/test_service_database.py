"""The book of searches: the same laws on SQLite and on PostgreSQL."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from postgres import running_postgres
from service_demo import copied, running
from starlette.testclient import TestClient

from nds_plugin.errors import NDSError
from nds_plugin.service.server.app import create_app
from nds_plugin.service.server.database import connect, meta, searches
from nds_plugin.service.server.searches import SearchBook, TooManyError
from nds_plugin.service.server.settings import Limits, Settings, admin_hash, token_hash

REQUEST, RESULT = {"budget": 3, "title": "ein Täßchen"}, {"w": [0.25, 0.75], "images": 3}
SET = "0123456789abcdef"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'book.sqlite'}"
        return
    found = request.getfixturevalue("postgres")
    yield found
    engine = sa.create_engine(Settings(tmp_path, database=found).database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS nds_searches, nds_tokens, nds_meta"))
    engine.dispose()


@pytest.fixture
def book(url: str, tmp_path: Path) -> Iterator[SearchBook]:
    engine = connect(Settings(tmp_path, database=url).database_url)
    yield SearchBook(engine, most=50)
    engine.dispose()


def test_a_search_comes_back_as_it_was_kept(book: SearchBook) -> None:
    token = book.new_token()
    made, new = book.add(token, SET, REQUEST, RESULT)
    assert new
    assert book.get(token, made.id) == made
    assert (made.request, made.result, made.expert_set) == (REQUEST, RESULT, SET)


def test_scores_that_were_kept_without_their_metric_are_accuracies(book: SearchBook) -> None:
    scores = {"clusters": [0, 1], "z": [0.5, 0.25]}
    token = book.new_token()
    made, _ = book.add(token, SET, {**REQUEST, "scores": scores}, RESULT)
    kept = book.get(token, made.id)
    assert kept is not None
    assert kept.request == {**REQUEST, "scores": {**scores, "metric": "accuracy"}}


def test_a_token_reads_and_deletes_only_its_own(book: SearchBook) -> None:
    mine, yours = book.new_token(), book.new_token()
    made, _ = book.add(mine, SET, REQUEST, RESULT)
    assert book.get(yours, made.id) is None
    assert not book.delete(yours, made.id)
    assert book.own(yours, None, 10) == []
    assert book.delete(mine, made.id)
    assert not book.delete(mine, made.id)
    assert book.knows(mine)
    assert not book.knows(mine + "x")


def test_pages_go_back_in_time_without_gap_or_repetition(book: SearchBook) -> None:
    token = book.new_token()
    made = [book.add(token, SET, {"seed": k}, RESULT)[0].id for k in range(7)]
    found, before = [], None
    while page := book.own(token, before, 3):
        found += [search.id for search in page]
        before = page[-1].number
    assert found == made[::-1]


def test_one_key_makes_one_search_even_at_the_same_moment(book: SearchBook) -> None:
    token = book.new_token()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(book.add, token, SET, REQUEST, RESULT, "a key") for _ in range(16)]
        results = [job.result() for job in jobs]
    assert len({search.id for search, _ in results}) == 1
    assert sum(new for _, new in results) == 1
    assert len(book.own(token, None, 50)) == 1
    other, new = book.add(book.new_token(), SET, REQUEST, RESULT, "a key")
    assert new
    assert other.id != results[0][0].id


def test_many_writers_lose_nothing(book: SearchBook) -> None:
    tokens = [book.new_token() for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda token: [book.add(token, SET, REQUEST, RESULT) for _ in range(10)], tokens))
    assert [len(book.own(token, None, 100)) for token in tokens] == [10] * 8
    assert book.count() == {"searches": 80, "tokens": 8}


def test_a_token_has_a_limit(book: SearchBook) -> None:
    token = book.new_token()
    for _ in range(50):
        book.add(token, SET, REQUEST, RESULT)
    with pytest.raises(TooManyError):
        book.add(token, SET, REQUEST, RESULT)


@pytest.mark.parametrize("how", ["delete", "forget"])
def test_what_is_deleted_is_in_no_file_of_sqlite(how: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'book.sqlite'}"
    book, other = SearchBook(connect(url)), SearchBook(connect(url))
    token = book.new_token()
    made, _ = book.add(token, SET, {"title": "to be forgotten"}, RESULT)
    assert other.get(token, made.id) is not None  # another server, whose connection stays open

    def kept() -> list[str]:
        return [path.name for path in tmp_path.iterdir() if b"to be forgotten" in path.read_bytes()]

    assert kept()
    if how == "delete":
        assert book.delete(token, made.id)
    else:
        assert book.forget(made.created + 1)["searches"] == 1
    assert kept() == []


def test_neither_tokens_nor_keys_are_in_the_database(book: SearchBook, url: str, tmp_path: Path) -> None:
    token = book.new_token()
    book.add(token, SET, REQUEST, RESULT, "a key of the client")
    engine = connect(Settings(tmp_path, database=url).database_url)
    with engine.connect() as connection:
        rows = repr(connection.execute(sa.select(searches)).all())
    engine.dispose()
    assert token_hash(token) in rows
    assert token not in rows
    assert "a key of the client" not in rows


def test_a_database_of_another_release_is_refused(url: str, tmp_path: Path) -> None:
    address = Settings(tmp_path, database=url).database_url
    engine = connect(address)
    with engine.begin() as connection:
        connection.execute(meta.update().values(version=99))
    engine.dispose()
    with pytest.raises(NDSError, match="its tables are of version 99, this release has 1"):
        connect(address)


def test_the_whole_search_works_on_the_database(url: str, service_store: Path) -> None:
    limits = Limits(requests_per_minute=0, heavy_per_minute=0)
    app = create_app(Settings(service_store, database=url, limits=limits))
    with TestClient(app, base_url="http://test/api/v1") as client:
        body: dict[str, Any] = {
            "expert_set": client.get("/health").json()["expert_set"],
            "budget": 5,
            "selector": "uniform",
        }
        title = "NUL \u0000, quote ', emoji \U0001f600"
        made = client.post("/searches", json={**body, "title": title}).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        assert client.get("/searches", headers=headers).json()["searches"][0]["request"]["title"] == title
        assert len(client.get(f"/searches/{made['id']}/images", headers=headers).json()["images"]) == 5
        for odd in ("%00", "0" * 32, "\u00ff" * 32, "' OR ''='"):
            assert client.get(f"/searches/{odd}", headers=headers).status_code == 404
        assert client.delete(f"/searches/{made['id']}", headers=headers).status_code == 204


@pytest.mark.slow
def test_two_servers_share_one_postgresql(postgres: str, service_store: Path, tmp_path: Path) -> None:
    store = copied(service_store, tmp_path / "copy")
    with running(store, "--database", postgres) as first, running(store, "--database", postgres) as second:
        current = httpx.get(f"{first}/api/v1/health").json()["expert_set"]
        body = {"expert_set": current, "budget": 5, "selector": "uniform"}
        made = httpx.post(f"{first}/api/v1/searches", json=body).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        url = f"/api/v1/searches/{made['id']}/manifest"
        assert (
            httpx.get(first + url, headers=headers).content
            == httpx.get(second + url, headers=headers).content
        )
    assert not list(store.glob("*.sqlite"))


@pytest.mark.slow
def test_a_database_that_goes_away_is_a_503_until_it_is_back(service_store: Path) -> None:
    with running_postgres() as url:
        app = create_app(Settings(service_store, database=url))
        client = TestClient(app, base_url="http://test/api/v1", raise_server_exceptions=False)
        assert client.post("/tokens").status_code == 201
    answer = client.post("/tokens")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["detail"] == "the database does not answer; try again."
    assert client.get("/sources").status_code == 200


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "expected a URL such as sqlite:///FILE or postgresql://"),
        ("oracle9://x/y", "expected sqlite:///FILE or postgresql://"),
        ("sqlite:////no/such/folder/book.sqlite", "unable to open database file"),
        ("postgresql://me:secret@127.0.0.1:9/x", "Connection refused"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(
    tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises(NDSError, match=message) as caught:
        connect(Settings(tmp_path, database=url).database_url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_short_or_missing_admin_token_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NDS_ADMIN_TOKEN", raising=False)
    assert admin_hash() == ""
    monkeypatch.setenv("NDS_ADMIN_TOKEN", "short")
    with pytest.raises(NDSError, match="the admin token has 5 characters, expected 16 or more"):
        admin_hash()
    (tmp_path / "token").write_text("a token that is long enough\n")
    assert admin_hash(str(tmp_path / "token")) == token_hash("a token that is long enough")
    with pytest.raises(NDSError, match="cannot read the admin token"):
        admin_hash(str(tmp_path / "none"))
