"""The page of the service in a real browser: what it says, and where, when something is wrong."""

# ruff: noqa: F401, F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from page_fixtures import FREE, browser, expert_hash, scores, server, visitor
from page_tools import TITLE, Visit, to_result, to_scores, to_selection, visit, write_scores
from service_demo import copied, other_experts, parts_of, running

from nds_plugin.service.published.publishing import publish

pytestmark = pytest.mark.slow

WRONG_FILES = [
    ({"clusters": [0, 1], "z": [0.5, 0.5]}, "Expected 3 scores, one for each cluster; the file has 2."),
    ({"clusters": [0, 2, 1]}, "Expected the clusters 0 to 2 in this order; the file has 2 in place 2."),
    ({"z": [0.5, None, 0.5]}, "The score of cluster 1 is not a finite number."),
    ({"z": "0.5"}, "This is not a scores file: it has no lists"),
    ({"expert_set": "f" * 64}, "These scores are of other experts (ffffffffffff…)"),
    ({"expert_set": None}, "The file does not say which experts it is of"),
    ({"metric": None}, "The file does not say which metric its scores are of"),
]
WRONG_TEXTS = [
    ("", "There is nothing to read: choose a file or paste its content."),
    ("{", "This is not JSON."),
    ("[1, 2]", "This is not a scores file: expected a JSON object"),
]


def test_scores_that_will_not_do_are_refused_with_one_sentence_at_the_field(
    visitor: Visit, scores: Path
) -> None:
    page = visitor.page
    to_scores(visitor)
    whole = json.loads(scores.read_text())
    field, error = page.get_by_label("Scores file"), page.locator("#scores-file-error")
    for change, sentence in WRONG_FILES:
        scores.write_text(json.dumps({**whole, **change}))
        with page.expect_file_chooser() as chooser:  # the same file again, changed: must be read again
            field.click()
        chooser.value.set_files(scores)
        error.filter(has_text=sentence).wait_for()
        assert "scores-file-error" in str(field.get_attribute("aria-describedby"))
        assert field.get_attribute("aria-invalid") == "true"
    page.get_by_text("Paste it instead").click()
    for text, sentence in WRONG_TEXTS:
        page.get_by_label("Content of scores.json").fill(text)
        page.get_by_role("button", name="Use the pasted scores").click()
        page.locator("#scores-text-error").filter(has_text=sentence).wait_for()
    assert not page.get_by_role("link", name="Go on to the selection").is_visible()


def test_a_hostile_pickle_is_refused_at_the_field_by_the_servers_sentence(
    browser: Any, server: str, tmp_path: Path
) -> None:
    (tmp_path / "z.pickle").write_bytes(pickle.dumps({"a": print}, protocol=4))
    with visit(browser, server) as visitor:
        to_scores(visitor)
        visitor.page.get_by_label("Scores file").set_input_files(tmp_path / "z.pickle")
        error = visitor.page.locator("#scores-file-error")
        error.wait_for()
        assert "nothing of it was executed" in error.inner_text()


WRONG_SETTINGS = [
    ("Budget", "0", "The budget is a whole number of images, 1 or more.", "30"),
    ("Budget", "73", "The chosen sources have only 72 images.", "30"),
    ("Budget", "", "Give a number.", "30"),
    ("Temperature T", "0", "The temperature is a number from 0.001 to 1,000,000.", "0.1"),
    ("Seed", "1.5", "The seed is a whole number, 0 or more.", "0"),
]


def test_a_setting_out_of_range_is_said_at_its_field_and_keeps_the_search_from_running(
    visitor: Visit, scores: Path
) -> None:
    page = visitor.page
    to_selection(visitor, scores)
    for name, value, sentence, right in WRONG_SETTINGS:
        control = page.get_by_label(name, exact=True)
        control.fill(value)
        error = page.locator(f"#{control.get_attribute('id')}-error")
        assert error.inner_text() == sentence
        page.get_by_role("button", name="Run the search").click()
        assert page.evaluate("document.activeElement.id") == control.get_attribute("id")
        control.fill(right)
        assert not error.is_visible()
    assert not any(url.endswith("/api/v1/searches") for url in visitor.requests)


def test_a_setting_that_only_the_server_can_refuse_is_said_at_its_field_too(
    browser: Any, server: str, scores: Path
) -> None:
    with visit(browser, server) as visitor:
        to_selection(visitor, scores)
        # At this temperature the weight of one cluster is zero in double precision.
        visitor.page.get_by_label("Temperature T", exact=True).fill("0.001")
        visitor.page.get_by_label("Budget", exact=True).fill("60")
        error = visitor.page.locator("#budget-error").filter(has_text="Budget must be 1 to 48")
        error.wait_for()
        visitor.page.get_by_label("Temperature T", exact=True).fill("0.1")
        error.wait_for(state="hidden")


def test_a_token_that_the_server_forgot_is_said_and_can_be_replaced(
    browser: Any, server: str, scores: Path
) -> None:
    with visit(browser, server) as visitor:
        visitor.open()
        visitor.page.evaluate(f"localStorage.setItem('nds.token', '{'x' * 43}')")
        to_selection(visitor, scores)
        visitor.page.get_by_role("button", name="Run the search").click()
        visitor.page.get_by_role("button", name="Search under a new token").click()
        visitor.page.get_by_role("heading", name="images found").wait_for()


def test_a_repeated_click_or_a_lost_answer_makes_one_search(visitor: Visit, scores: Path) -> None:
    to_selection(visitor, scores)
    lost: list[int] = []

    def lose_the_first(route: Any) -> None:
        answer = route.fetch()
        lost.append(answer.status)
        if len(lost) == 1:
            route.abort()
        else:
            route.fulfill(response=answer)

    visitor.page.route("**/api/v1/searches", lose_the_first)
    visitor.page.get_by_role("button", name="Run the search").click()
    visitor.page.get_by_text("The server does not answer").wait_for()
    visitor.page.get_by_role("button", name="Run the search").click()
    visitor.page.get_by_role("heading", name="images found").wait_for()
    visitor.page.unroute("**/api/v1/searches")
    assert lost == [201, 200]
    visitor.open("#/searches")
    assert visitor.page.locator("tbody tr").count() == 1
    visitor.troubles[:] = [text for text in visitor.troubles if "ERR_FAILED" not in text]


def test_a_search_that_could_not_be_deleted_is_said_and_stays(visitor: Visit, scores: Path) -> None:
    to_result(visitor, scores)
    visitor.page.route("**/api/v1/searches/*", lambda route: route.abort())
    for place, button in ((None, "Delete this search"), ("#/searches", f"Delete {TITLE}")):
        if place:
            visitor.open(place)
        visitor.page.get_by_role("button", name=button).click()
        visitor.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        visitor.page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    visitor.page.unroute("**/api/v1/searches/*")
    visitor.page.get_by_role("button", name=f"Delete {TITLE}").click()
    visitor.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    visitor.page.get_by_text("No searches under this token").wait_for()
    visitor.troubles[:] = [text for text in visitor.troubles if "ERR_FAILED" not in text]


def test_scores_of_replaced_experts_are_asked_for_again(
    browser: Any, service_store: Path, expert_hash: str, scores: Path, tmp_path: Path
) -> None:
    store = copied(service_store, tmp_path / "copy")
    with running(store, *FREE) as address, visit(browser, address) as visitor:
        to_selection(visitor, scores)
        experts = other_experts(store.parent / "experts0", store.parent / "experts1")
        publish(store, **{**parts_of(store), "experts": experts})
        visitor.page.get_by_role("button", name="Run the search").click()
        visitor.page.get_by_role("link", name="Score again").click()
        visitor.page.get_by_text("The experts were replaced since you scored your images").wait_for()
        visitor.page.get_by_label("Scores file").set_input_files(scores)
        visitor.page.get_by_text("These scores are of other experts").wait_for()


def test_an_empty_store_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with running(tmp_path / "store", *FREE) as address, visit(browser, address) as visitor:
        visitor.open()
        visitor.heading("Nothing is published here yet")
        assert "nds-serve publish" in visitor.page.locator("main").inner_text()
