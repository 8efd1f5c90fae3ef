"""Fixtures of the tests of the page: a browser, a server, scores of its experts, a visitor.

Of a module each: Playwright's loop must not outlive the module, since other tests run loops of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_tools import Visit, chromium, visit, write_scores
from service_demo import copied, running

Z = [0.9, 0.7, 0.4]
FREE = ("--requests-per-minute", "0", "--heavy-per-minute", "0")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Any, service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = copied(service_store, tmp_path_factory.mktemp("page") / "copy")
    with running(store, *FREE) as address:
        yield address


@pytest.fixture(scope="module")
def expert_hash(server: str) -> str:
    return str(httpx.get(f"{server}/api/v1/expert-sets").json()["expert_sets"][0]["hash"])


@pytest.fixture
def scores(expert_hash: str, tmp_path: Path) -> Path:
    return write_scores(tmp_path / "scores.json", expert_hash, Z)


@pytest.fixture
def visitor(browser: Any, server: str) -> Iterator[Visit]:
    """A visitor who meets no error of the page and no other server."""
    with visit(browser, server) as found:
        yield found
        assert found.troubles == []
        assert found.elsewhere() == []
