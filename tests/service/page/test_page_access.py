"""The page for everybody: by keyboard alone, on a phone, for screen readers, in light and dark, and without leaving home."""

# ruff: noqa: F401, F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from page_fixtures import browser, expert_hash, scores, server
from page_tools import NARROW, TITLE, WIDE, Visit, every_state, to_scores, visit
from service_demo import ROOT, copied, running

pytestmark = pytest.mark.slow

# Of what has the focus: its accessible name or text, and whether it is seen to have it.
FOCUSED = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const name = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
  return [name.trim(), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""


class Keyboard:
    """Somebody without a mouse, who sees where the focus is at every step."""

    def __init__(self, visitor: Visit) -> None:
        self.page = visitor.page

    def to(self, name: str, most: int = 60) -> None:
        """Press Tab until the control of this name has the focus."""
        passed = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            focused, seen = self.page.evaluate(FOCUSED)
            if focused:  # the end of the page hands over to the browser's own controls
                assert seen, f"nothing shows that {focused!r} has the focus"
            passed.append(focused)
            if focused.startswith(name):
                return
        raise AssertionError(f"{name!r} cannot be reached by Tab from here: {passed}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def heading(self, name: str) -> None:
        """Wait for a view; its heading must have taken the focus, so that reading goes on there."""
        self.page.wait_for_function(
            "name => document.activeElement.tagName === 'H1' && document.activeElement.textContent.startsWith(name)",
            arg=name,
        )


def test_a_whole_search_goes_by_keyboard_alone(browser: Any, server: str, scores: Path) -> None:
    with visit(browser, server) as visitor:
        keys, page = Keyboard(visitor), visitor.page
        visitor.open()
        keys.to("Skip to the content", most=1)
        keys.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        keys.to("Start a search", most=1)
        keys.press("Enter")
        keys.heading("Choose sources")
        keys.to("Choose meadow")
        keys.press("Space")
        page.get_by_text("48 images of 2 sources").wait_for()
        keys.to("Go on to the scores")
        keys.press("Enter")
        keys.heading("Score your images")
        keys.to("Paste it instead")
        keys.press("Enter")
        keys.to("Content of scores.json")
        page.keyboard.insert_text(scores.read_text())
        keys.to("Use the pasted scores")
        keys.press("Enter")
        keys.to("Go on to the selection")
        keys.press("Enter")
        keys.heading("Set the selection")
        keys.to("Budget, slider")
        before = page.get_by_label("Budget", exact=True).input_value()
        keys.press(*["ArrowRight"] * 30)
        budget = page.get_by_label("Budget", exact=True).input_value()
        assert int(budget) > int(before)
        keys.to("Title")
        page.keyboard.insert_text(TITLE)
        page.locator("dl.tiles").get_by_text(budget, exact=True).wait_for()
        keys.press("Enter")
        keys.heading(TITLE)
        keys.to("CSV")
        with page.expect_download() as download:
            keys.press("Enter")
        assert len(Path(download.value.path()).read_text().splitlines()) == 1 + int(budget)
        visitor.open("#/searches")
        keys.to(f"Delete {TITLE}")
        keys.press("Enter", "Escape")
        assert page.evaluate(FOCUSED)[0] == f"Delete {TITLE}"
        keys.press("Enter", "Tab", "Enter")
        page.get_by_text("No searches under this token.").wait_for()
        assert visitor.troubles == []


def with_a_long_name(route: Any) -> None:
    """What the server says, with a source of 60 letters in the place of another."""
    long, sent = "m" * 60, route.request.post_data
    answer = route.fetch(post_data=sent.replace(long, "meadow") if sent else None)
    told = "json" in answer.headers.get("content-type", "")
    route.fulfill(response=answer, body=answer.text().replace("meadow", long) if told else None)


@pytest.mark.parametrize("size", [NARROW, WIDE, {"width": 320, "height": 640}], ids=["390", "1280", "320"])
def test_no_state_of_the_page_is_wider_than_the_window_or_leaves_the_server(
    browser: Any, server: str, scores: Path, size: dict[str, int]
) -> None:
    with visit(browser, server, viewport=size) as visitor:
        visitor.page.route("**/api/v1/**", with_a_long_name)
        for state in every_state(visitor, scores):
            assert visitor.overflow() <= 0, f"{state} scrolls sideways by {visitor.overflow()} pixels"
        assert visitor.troubles == []
        assert visitor.elsewhere() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
def test_axe_finds_nothing_serious_in_any_state(
    browser: Any, server: str, scores: Path, scheme: str, size: dict[str, int]
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
    ).Axe()
    with visit(browser, server, color_scheme=scheme, viewport=size) as visitor:
        for state in every_state(visitor, scores):
            violations = axe.run(visitor.page).response["violations"]
            serious = [
                (found["id"], node["html"][:200], node["any"][0]["message"] if node["any"] else found["help"])
                for found in violations
                if found["impact"] in ("serious", "critical")
                for node in found["nodes"]
            ]
            assert serious == [], state


def test_dark_is_dark_and_light_is_light(browser: Any, server: str) -> None:
    for scheme, bright in (("light", True), ("dark", False)):
        with visit(browser, server, color_scheme=scheme) as visitor:
            visitor.open()
            colour = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(colour[4:-1].split(",")[0]) > 128) is bright


def test_nothing_moves_for_those_who_asked_for_that(browser: Any, server: str) -> None:
    with visit(browser, server, reduced_motion="reduce") as visitor:
        to_scores(visitor)
        moving = visitor.page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0"
            " || getComputedStyle(e).animationName !== 'none').length"
        )
        assert moving == 0


def test_the_page_runs_under_a_policy_without_inline_code(browser: Any, server: str) -> None:
    policy = httpx.get(server).headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    with visit(browser, server) as visitor:
        to_scores(visitor)
        styled = visitor.page.evaluate(
            "document.querySelectorAll('[style], style, script:not([src])').length"
        )
        assert styled == 0
        assert visitor.troubles == []


def test_each_view_has_a_title_of_its_own_and_one_first_heading(
    browser: Any, server: str, scores: Path
) -> None:
    titles = set()
    with visit(browser, server) as visitor:
        for place in ("#/", "#/search/sources", "#/search/scores", "#/search/selection", "#/searches"):
            visitor.open(place)
            visitor.page.reload()
            visitor.page.locator("main:not([aria-busy]) h1").wait_for()
            assert visitor.page.locator("h1").count() == 1
            titles.add(visitor.page.title())
    assert len(titles) == 5


def test_the_modules_are_fetched_at_once_and_none_is_forgotten(browser: Any, server: str) -> None:
    modules = {path.name for path in (ROOT / "nds_plugin/service/page").glob("*.js")}
    with visit(browser, server) as visitor:
        visitor.open()
        head = visitor.page.locator("link[rel=modulepreload], script[type=module]")
        named = {
            Path(str(link.get_attribute("href") or link.get_attribute("src"))).name for link in head.all()
        }
        assert named == modules


SHORT = """async (names) => {
  const { shortNames } = await import("/static/catalogue.js");
  return [...shortNames(names).values()];
}"""


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["nds_sample_street_train", "nds_sample_room_train"], ["street", "room"]),
        (["coco_2017_train", "openimages_train"], ["coco_2017", "openimages"]),
        (["coco"], ["coco"]),
        (["a_b", "a"], ["a_b", "a"]),
        (["street", "room"], ["street", "room"]),
    ],
)
def test_names_in_charts_lose_what_all_share(
    browser: Any, server: str, names: list[str], short: list[str]
) -> None:
    with visit(browser, server) as visitor:
        visitor.open()
        assert visitor.page.evaluate(SHORT, names) == short


def test_visitors_who_reload_are_not_kept_out_by_the_rate_limit_and_fetch_little_again(
    browser: Any, service_store: Path, tmp_path: Path
) -> None:
    store = copied(service_store, tmp_path / "copy")
    with running(store) as address, visit(browser, address) as visitor:
        statuses: list[int] = []
        visitor.page.on(
            "response", lambda answer: statuses.append(answer.status) if "/static/" in answer.url else None
        )
        visitor.open()
        for _ in range(12):
            visitor.page.reload()
            visitor.heading("Find the pretraining images")
        assert visitor.troubles == []
        assert not {status for status in statuses if status >= 400}
        first = httpx.get(f"{address}/static/app.js")
        again = httpx.get(f"{address}/static/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["cache-control"] == "no-cache"
    assert again.status_code == 304
