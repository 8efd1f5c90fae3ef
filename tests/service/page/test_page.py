"""The page of the service in a real browser: the whole search, and what it says when something is wrong."""

# ruff: noqa: F401, F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import yaml
from page_fixtures import FREE, Z, browser, expert_hash, scores, server, visitor
from page_tools import TITLE, Visit, to_result, to_scores, to_selection, visit, write_scores
from service_demo import ROOT, copied, parts_of, running

from nds_plugin.selection.selection import Selection
from nds_plugin.selection.weights import cluster_weights, effective_clusters
from nds_plugin.service.fastadapt.scores import expert_name
from nds_plugin.service.published.publishing import publish

pytestmark = pytest.mark.slow


def saved(visitor: Visit, button: str) -> bytes:
    """What a button of the page downloads."""
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name=button, exact=True).click()
    return Path(download.value.path()).read_bytes()


def run_command(text: str, **options: Any) -> None:
    """Run a command of the page as a reader would, with the client of this checkout."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[0] == "nds-client"
    command = [sys.executable, "-m", "nds_plugin.service.client.cli", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr


def test_a_whole_search_from_the_sources_by_the_command_that_the_page_shows_to_the_files(
    visitor: Visit, service_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "my_photos").symlink_to(service_store.parent / "sample/city/images")
    to_scores(visitor)
    command = visitor.page.get_by_label("the command", exact=True).inner_text()
    run_command(command, cwd=tmp_path)
    search = to_result(visitor, tmp_path / "scores.json")
    token = visitor.page.evaluate("localStorage.getItem('nds.token')")
    address = f"{visitor.server}/api/v1/searches/{search}"
    found = httpx.get(address, headers={"Authorization": f"Bearer {token}"}).json()
    z = json.loads((tmp_path / "scores.json").read_text())["z"]
    assert found["request"]["scores"]["z"] == z
    assert found["result"]["w"] == pytest.approx(cluster_weights(z, 0.1))

    rows = list(csv.DictReader(io.StringIO(saved(visitor, "CSV").decode())))
    assert len(rows) == found["result"]["images"] == 30
    identities = {(row["source"], row["image_id"]) for row in rows}
    assert len(identities) == 30
    (tmp_path / "selection.parquet").write_bytes(saved(visitor, "Parquet"))
    selection = Selection.load(tmp_path / "selection.parquet")
    table = pq.read_table(tmp_path / "selection.parquet").to_pylist()
    assert {(row["source"], row["image_id"]) for row in table} == identities
    assert selection.weights == pytest.approx(cluster_weights(z, 0.1))
    document = json.loads(saved(visitor, "JSON"))
    assert {(row["source"], row["image_id"]) for row in document["images"]} == identities
    ids = json.loads(saved(visitor, "COCO ids"))
    assert {(name, str(number)) for name, numbers in ids.items() for number in numbers} == identities
    config = yaml.safe_load(saved(visitor, "Download the config"))
    assert config["NDS"]["SELECTION"] == f"nds-{search}.parquet"


def test_the_result_shows_the_shares_of_the_manifest(visitor: Visit, scores: Path) -> None:
    to_result(visitor, scores)
    rows = list(csv.DictReader(io.StringIO(saved(visitor, "CSV").decode())))
    section = visitor.page.get_by_role("region", name="Share of each source", exact=True)
    section.get_by_text("The numbers as a table").click()
    shown = [row.inner_text().split("\t") for row in section.locator("tbody tr").all()]
    for name, drawn, uniform in shown:
        share = sum(row["source"] == name for row in rows) / len(rows)
        assert float(drawn.rstrip(" %")) == pytest.approx(100 * share, abs=0.51)
        assert uniform == "33 %"


def test_the_preview_follows_the_settings(visitor: Visit, scores: Path) -> None:
    to_selection(visitor, scores)
    tiles, page = visitor.page.locator("dl.tiles"), visitor.page
    for temperature in (0.1, 0.5, 5):
        page.get_by_label("Temperature T", exact=True).fill(str(temperature))
        expected = effective_clusters(cluster_weights(Z, temperature))
        tiles.get_by_text(f"{expected:.2f}", exact=True).wait_for()
    page.get_by_label("Budget", exact=True).fill("72")
    page.get_by_role("status").filter(has_text="72 images would be drawn.").wait_for(state="attached")
    page.get_by_label("Uniform").check()
    tiles.get_by_text("3.00", exact=True).wait_for()
    assert not page.get_by_label("Temperature T", exact=True).is_visible()


def test_the_preview_asks_once_for_a_burst_of_changes(visitor: Visit, scores: Path) -> None:
    to_selection(visitor, scores)
    visitor.requests.clear()
    for budget in range(10, 40):
        visitor.page.get_by_label("Budget", exact=True).fill(str(budget))
    visitor.page.locator("dl.tiles").get_by_text("39", exact=True).wait_for()
    # Of 30 changes; more than a few only where the machine is slower than the page's patience.
    assert sum(url.endswith("/preview") for url in visitor.requests) <= 10


def test_of_a_scores_file_only_the_numbers_their_metric_and_the_hash_are_sent(
    visitor: Visit, expert_hash: str, tmp_path: Path
) -> None:
    secret = "a word that stays here"
    bodies: list[str] = []
    visitor.page.on("request", lambda request: bodies.append(request.post_data or ""))
    to_result(visitor, write_scores(tmp_path / "scores.json", expert_hash, Z, details={"client": secret}))
    sent = [json.loads(body) for body in bodies if body]
    assert sent
    assert all(
        body["scores"] == {"clusters": [0, 1, 2], "z": Z, "metric": "accuracy"}
        and body["expert_set"] == expert_hash
        for body in sent
    )
    assert secret not in "".join(bodies)


def test_rounded_scores_are_what_is_sent(visitor: Visit, expert_hash: str, tmp_path: Path) -> None:
    to_scores(visitor)
    visitor.page.get_by_label("Scores file").set_input_files(
        write_scores(tmp_path / "scores.json", expert_hash, [0.91234, 0.70001, 0.4])
    )
    visitor.page.get_by_text("What will be sent").click()
    visitor.page.get_by_label("Rounding").select_option("2")
    shown = json.loads(visitor.page.get_by_label("what will be sent", exact=True).inner_text())
    assert shown["scores"]["z"] == [0.91, 0.7, 0.4]
    with visitor.page.expect_request("**/api/v1/preview") as request:
        visitor.page.get_by_role("link", name="Go on to the selection").click()
    assert request.value.post_data_json["scores"] == shown["scores"]


def test_the_authors_pickle_gives_the_search_of_the_same_scores(
    visitor: Visit, expert_hash: str, tmp_path: Path
) -> None:
    percent = {expert_name(expert_hash, k): 100 * z for k, z in enumerate(Z)}
    (tmp_path / "z.pickle").write_bytes(pickle.dumps(percent, protocol=4))
    to_selection(visitor, tmp_path / "z.pickle")
    expected = effective_clusters(cluster_weights(Z, 0.1))
    visitor.page.locator("dl.tiles").get_by_text(f"{expected:.2f}", exact=True).wait_for()


def test_chosen_sources_alone_are_drawn_from(visitor: Visit, scores: Path) -> None:
    visitor.open("#/search/sources")
    visitor.page.get_by_label("Choose street").uncheck()
    visitor.page.get_by_text("48 images of 2 sources in 2 clusters").wait_for()
    visitor.page.get_by_role("button", name="Go on").click()
    visitor.page.get_by_label("Scores file").set_input_files(scores)
    visitor.page.get_by_role("link", name="Go on to the selection").click()
    visitor.page.get_by_label("Temperature T", exact=True).fill("5")
    visitor.page.get_by_role("button", name="Run the search").click()
    visitor.page.get_by_role("heading", name="images found").wait_for()
    rows = list(csv.DictReader(io.StringIO(saved(visitor, "CSV").decode())))
    assert {row["source"] for row in rows} == {"meadow", "room"}


def test_without_scores_the_uniform_baseline_can_be_drawn(visitor: Visit) -> None:
    to_scores(visitor)
    visitor.page.get_by_role("link", name="Draw uniformly").click()
    visitor.heading("Set the selection")
    assert visitor.page.get_by_label("NDS", exact=True).is_disabled()
    visitor.page.get_by_role("button", name="Run the search").click()
    visitor.page.get_by_role("heading", name="14 images found").wait_for()


def test_a_reload_in_the_middle_loses_nothing(visitor: Visit, scores: Path) -> None:
    to_selection(visitor, scores)
    visitor.page.get_by_label("Budget", exact=True).fill("31")
    visitor.page.locator("dl.tiles").get_by_text("31", exact=True).wait_for()
    visitor.page.reload()
    visitor.heading("Set the selection")
    assert visitor.page.get_by_label("Budget", exact=True).input_value() == "31"
    visitor.page.locator("dl.tiles").get_by_text("31", exact=True).wait_for()


def test_own_searches_are_listed_changed_and_deleted(visitor: Visit, scores: Path) -> None:
    page = visitor.page
    to_result(visitor, scores)
    page.get_by_role("link", name="Change and search again").click()
    visitor.heading("Set the selection")
    assert page.get_by_label("Budget", exact=True).input_value() == "30"
    page.get_by_label("Title").fill("Second try")
    page.get_by_role("button", name="Run the search").click()
    visitor.heading("Second try")
    visitor.open("#/searches")
    assert page.locator("tbody th").all_inner_texts() == ["Second try", TITLE]
    page.get_by_role("button", name="Delete Second try").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete Second try").wait_for(state="detached")
    assert page.locator("tbody th").all_inner_texts() == [TITLE]


def test_a_token_opens_its_searches_in_another_browser_and_no_other_does(
    browser: Any, server: str, visitor: Visit, scores: Path
) -> None:
    search = to_result(visitor, scores)
    token = visitor.page.evaluate("localStorage.getItem('nds.token')")
    with visit(browser, server) as other:
        other.open(f"#/searches/{search}")
        other.page.get_by_text("This search is not among those of this browser's token.").wait_for()
        other.open("#/searches")
        other.page.get_by_text("Use a token of another browser").click()
        for wrong, sentence in (
            ("?", "A token is a word"),
            ("x" * 43, "The server does not know this token."),
        ):
            other.page.get_by_label("Token", exact=True).fill(wrong)
            other.page.get_by_role("button", name="Use it").click()
            other.page.get_by_text(sentence).wait_for()
        other.page.get_by_label("Token", exact=True).fill(token)
        other.page.get_by_role("button", name="Use it").click()
        other.page.get_by_role("link", name=TITLE).click()
        other.heading(TITLE)


def test_copy_buttons_copy(browser: Any, server: str) -> None:
    with visit(browser, server, permissions=["clipboard-read", "clipboard-write"]) as visitor:
        to_scores(visitor)
        visitor.page.get_by_role("button", name="Copy the command", exact=True).click()
        visitor.page.get_by_text("Copied", exact=True).wait_for()
        copied_text = visitor.page.evaluate("navigator.clipboard.readText()")
        assert re.match(rf"nds-client --server {server} score \\\n", copied_text)


def test_thumbnails_come_from_providers_only_when_asked_for_and_where_allowed(
    browser: Any, service_store: Path, scores: Path, tmp_path: Path
) -> None:
    store = copied(service_store, tmp_path / "copy")
    sample = service_store.parent / "sample"
    notes = parts_of(store)["notes"]
    allowed = yaml.safe_load(notes.read_text())
    allowed["room"]["thumbnails"] = False
    notes.write_text(yaml.safe_dump(allowed))
    publish(store, **parts_of(store))
    with running(store, "--thumbnails", *FREE) as address, visit(browser, address) as visitor:
        # The provider of the links is no server in this test: its files are handed over by the browser's driver.
        provider = "http://127.0.0.1:9/"
        visitor.page.route(
            f"{provider}**", lambda route: route.fulfill(path=sample / route.request.url[len(provider) :])
        )
        to_result(visitor, scores)
        assert visitor.elsewhere() == []
        visitor.page.get_by_label("Show thumbnails").check()
        mosaic = visitor.page.locator(".mosaic")
        mosaic.locator("img").first.wait_for()
        mosaic.scroll_into_view_if_needed()
        visitor.page.wait_for_function("document.querySelector('.mosaic img')?.naturalWidth > 0")
        sources = {url[len(provider) :].split("/")[0] for url in visitor.elsewhere()}
        assert sources == {"street", "meadow"}
        assert mosaic.get_by_role("link", name="room ").count() == 9
        assert mosaic.locator("img").count() == 18
        assert visitor.troubles == []
