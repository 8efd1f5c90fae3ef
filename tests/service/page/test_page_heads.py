"""The page with a set of head experts: what is downloaded is one network, and a search goes as with others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from head_sets import head_parts
from page_fixtures import FREE, Z, browser
from page_tools import to_result, to_scores, visit, write_scores
from service_demo import copied, running

from nds_plugin.service.published.publishing import publish

__all__ = ["browser"]


@pytest.fixture(scope="module")
def server(browser: Any, service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    store = copied(service_store, folder / "copy")
    publish(store, **head_parts(service_store, folder / "heads"))
    with running(store, *FREE) as address:
        yield address


@pytest.mark.slow
def test_the_page_says_what_heads_are_and_searches_by_their_scores(
    browser: Any, server: str, tmp_path: Path
) -> None:
    current = httpx.get(f"{server}/api/v1/expert-sets").json()["expert_sets"][0]
    scores = write_scores(tmp_path / "scores.json", current["hash"], Z)
    with visit(browser, server) as visitor:
        visitor.open()
        visitor.page.get_by_role("heading", name="Indexed sources").wait_for()
        home = visitor.page.locator("main").inner_text()
        assert "a small classifier on one network that all of them share" in home
        assert "1 network with 3 experts (45 MB)" in home
        assert "3, one for each cluster, on one resnet18" in home
        to_scores(visitor)
        text = visitor.page.locator("main").inner_text()
        assert "It downloads 1 network with 3 experts (45 MB, once)" in text
        assert "needs PyTorch (the extra experts); a GPU helps" in text
        assert "paper authors' client (Neural" not in text
        to_result(visitor, scores)
        assert visitor.troubles == []
