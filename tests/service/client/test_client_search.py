"""A search of the client against a server in the same process."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_demo import copied, parts_of
from starlette.testclient import TestClient

from nds_plugin.errors import NDSError
from nds_plugin.service.client import verbs
from nds_plugin.service.client.folders import Tokens
from nds_plugin.service.client.http import Service
from nds_plugin.service.client.search import SearchOptions, current_experts, make_request, send
from nds_plugin.service.published.publishing import publish
from nds_plugin.service.server.app import create_app
from nds_plugin.service.server.settings import Settings

UNIFORM = SearchOptions(budget=12, selector="uniform")


@pytest.fixture
def store(service_store: Path, tmp_path: Path) -> Path:
    return copied(service_store, tmp_path / "copy")


@pytest.fixture
def service(store: Path, tmp_path: Path) -> Iterator[Service]:
    with Service("http://127.0.0.1", Tokens(tmp_path / "tokens.json")) as service:
        service._http = TestClient(create_app(Settings(store)), follow_redirects=False)
        yield service


def _search(service: Service) -> tuple[str, str, bool]:
    set_id, expert_hash = current_experts(service)
    found, new = send(service, make_request(None, expert_hash, UNIFORM), set_id)
    assert found["expert_set"] == set_id
    return set_id, found["id"], new


def test_the_same_request_finds_its_search_until_the_sources_are_published_anew(
    service: Service, store: Path
) -> None:
    first, found, new = _search(service)
    assert new
    assert _search(service) == (first, found, False)
    parts = parts_of(store)
    parts["notes"].write_text("street: {homepage: 'https://example.org/new'}")
    publish(store, **parts)
    second, other, new = _search(service)
    assert new
    assert (second, other) != (first, found)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["", "n\n", "\n"])
def test_whoever_does_not_say_yes_sends_nothing(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(typed))  # nothing is typed before Ctrl-D
    with pytest.raises(NDSError, match=r"^not sent\.$"):
        verbs._ask()
