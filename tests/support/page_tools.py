"""A real browser in front of a real server, and the ways through the page that several tests take."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TITLE = "Traffic, first try"


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium under Playwright; skips where either is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """A visitor's tab: the page, and what it must not have at its end.

    Attributes:
        troubles: errors and warnings of the console, and uncaught exceptions.
        requests: addresses that the page asked for.
    """

    page: Any
    server: str
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, place: str = "#/") -> None:
        """Go to a place of the page by its address."""
        self.page.goto(f"{self.server}/{place}")
        self.page.locator("main:not([aria-busy]) h1").wait_for()

    def heading(self, name: str) -> None:
        """Wait for the view of this heading."""
        self.page.get_by_role("heading", level=1, name=name).wait_for()

    def elsewhere(self) -> list[str]:
        """Requests to other origins."""
        return [url for url in self.requests if not url.startswith((f"{self.server}/", "data:", "blob:"))]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(
            self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )


@contextlib.contextmanager
def visit(browser: Any, server: str, **settings: Any) -> Iterator[Visit]:
    """A fresh browser profile at the server."""
    context = (
        browser.new_context(viewport=WIDE, **settings)
        if "viewport" not in settings
        else browser.new_context(**settings)
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    found = Visit(page, server)
    page.on(
        "console",
        lambda message: found.troubles.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: found.troubles.append(f"uncaught: {error}"))
    page.on("request", lambda request: found.requests.append(request.url))
    yield found
    context.close()


def write_scores(path: Path, expert_hash: str, z: list[float], **others: Any) -> Path:
    """A scores file as the client writes it."""
    document = {
        "kind": "scores", "version": 1, "key": "0" * 64, "clusters": list(range(len(z))), "z": z, "stderr": [0.01] * len(z),
        "metric": "accuracy", "images": 4, "expert_set": expert_hash, "task": "rotation", "unreadable": 0, "details": {},
        "partition": "", **others,
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def to_scores(visitor: Visit) -> None:
    """From the list of sources to the step of the scores."""
    visitor.open()
    visitor.page.get_by_role("link", name="Start a search").click()
    visitor.heading("Choose sources")
    visitor.page.get_by_role("button", name="Go on to the scores").click()
    visitor.heading("Score your images")


def to_selection(visitor: Visit, scores: Path) -> None:
    """On with a scores file to the settings, and until the first preview."""
    to_scores(visitor)
    visitor.page.get_by_label("Scores file").set_input_files(scores)
    visitor.page.get_by_role("link", name="Go on to the selection").click()
    visitor.heading("Set the selection")
    visitor.page.get_by_role("img", name="Score z and weight w of each cluster").wait_for()


def to_result(visitor: Visit, scores: Path, budget: int = 30) -> str:
    """On to the result; the search's id."""
    to_selection(visitor, scores)
    visitor.page.get_by_label("Budget", exact=True).fill(str(budget))
    visitor.page.get_by_label("Title").fill(TITLE)
    visitor.page.get_by_role("button", name="Run the search").click()
    visitor.heading(TITLE)
    visitor.page.get_by_role("heading", name="Cluster ").first.wait_for()
    return str(visitor.page.url.rsplit("/", 1)[1])


def every_state(visitor: Visit, scores: Path) -> Iterator[str]:
    """Through the whole page; stops at every state of it, and yields its name."""
    page = visitor.page
    visitor.open("#/searches")
    yield "no searches yet"
    visitor.open("#/nowhere")
    yield "not found"
    visitor.open()
    yield "sources"
    page.goto(f"{visitor.server}/#/search/sources")
    visitor.heading("Choose sources")
    page.get_by_role("button", name="None").click()
    page.get_by_role("button", name="Go on to the scores").click()
    page.get_by_text("Choose at least one source.").wait_for()
    yield "no source chosen"
    page.get_by_role("button", name="All").click()
    to_scores(visitor)
    for summary in page.locator("summary").all():
        summary.click()
    yield "scores"
    wrong = {"name": "scores.json", "mimeType": "application/json", "buffer": b"{}"}
    page.get_by_label("Scores file").set_input_files(wrong)
    page.get_by_text("This is not a scores file").wait_for()
    yield "wrong scores"
    page.get_by_label("Scores file").set_input_files(scores)
    page.get_by_text("What will be sent").click()
    yield "scores given"
    to_selection(visitor, scores)
    page.get_by_text("The numbers as a table").first.click()
    yield "selection"
    page.get_by_label("Budget", exact=True).fill("0")
    page.get_by_text("Still of the settings before the error.").wait_for()
    yield "wrong budget"
    to_result(visitor, scores)
    page.get_by_text("Browse the 30 images").click()
    page.locator("#images ~ details tbody tr").first.wait_for()
    yield "result"
    visitor.open("#/searches")
    page.get_by_text("Use a token of another browser").click()
    yield "searches"
    page.get_by_role("button", name=f"Delete {TITLE}").click()
    page.get_by_role("dialog").wait_for()
    yield "deleting"
    page.get_by_role("button", name="Keep").click()
