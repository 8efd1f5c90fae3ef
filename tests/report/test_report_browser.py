"""The report in a real browser, headless: nothing is fetched, every picture shows, a phone can read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nds_plugin.datasets.sample import generate as sample
from nds_plugin.experiments.curve import budget_curve
from nds_plugin.experiments.grid_page import write_grid_page
from nds_plugin.experts.scores import Scores
from nds_plugin.report.result_table import build_table
from nds_plugin.report.runs import write_runs_report
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.tables import cluster_table, effective_numbers, source_shares
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

pytestmark = pytest.mark.slow  # processes of their own, each with Detectron2 or a server

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip("no chromium here: apt-get install chromium", allow_module_level=True)

DOMAINS = ("street", "room", "meadow", "shelf")
CLASSES = ("car", "truck", "rider", "bicycle", "person", "bus", "motorcycle", "train")
WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Results of two runs, as the main job writes them, on a real index, partition and draw."""
    root = tmp_path_factory.mktemp("runs")
    sample.generate(root, train_images=20, val_images=1, domains=list(DOMAINS))
    index = SourceIndex.from_records(
        ImageRecord(name, str(i), str(root / name / "images" / f"train_{i + 1:06d}.jpg"))
        for name in DOMAINS
        for i in range(20)
    )
    partition = Partition(np.arange(80) // 8, index.table, index.hash, method="kmeans", seed=0)
    index.save(root / "index.parquet", "key")
    partition.save(root / "partition.parquet", "key")
    z = np.linspace(0.95, 0.5, 10)
    scores = Scores(
        clusters=tuple(range(10)), z=tuple(z), stderr=tuple(0.01 + 0 * z), metric="accuracy", images=100,
        expert_set="e" * 64, partition=partition.hash, task="rotation",
    )  # fmt: skip
    return {
        name: _document(
            name,
            root,
            index,
            partition,
            select(index, partition, SelectionConfig(SELECTORS[name](), share=0.3), s),
            s,
        )
        for name, s in (("uniform", None), ("nds", scores))
    }


def _document(
    name: str,
    root: Path,
    index: SourceIndex,
    partition: Partition,
    selection: Selection,
    scores: Scores | None,
) -> dict[str, Any]:
    aps = {c: 10.0 + 3 * i + len(name) for i, c in enumerate(CLASSES)}
    summary = {
        "AP_bb": 31.25,
        "AP50_bb": 55.1,
        "AP": 28.0,
        "AP50": None,
        "per_category": aps,
        "per_category_bb": aps,
    }
    return {
        "seed": 0, "summary": summary, "times": {"pretrain": 4000.5, "finetune": 812.0}, "versions": {"torch": "2.14.1"},
        "machine": {"cpu": "a processor", "cores": 2, "gpus": [], "system": "Linux"}, "config": "NDS:\n  SEED: 0\n" * 60,
        "target": ["city_train"], "test": "city_val", "selector": name,
        "pretrained": {"classes": ["car", "person"], "AP_bb": 4.5, "AP": 3.2, "per_category_bb": {"car": 8.0, "person": 1.0},
                       "per_category": {"car": 6.0, "person": 0.4}},
        "transfer": {"classes": [{"target": c, "source": c, "how": "name"} for c in CLASSES], "kept": ["backbone.a"] * 90,
                     "mapped": ["roi_heads.box_predictor.cls_score.weight"], "dropped": {"x": "not in the model"},
                     "initialised": ["rider"], "missing": []},
        "selection": {
            "artefacts": {"index": str(root / "index.parquet"), "partition": str(root / "partition.parquet")},
            "images": len(selection), "mode": selection.mode, "weights": selection.weights.tolist(), **selection.info,
            **effective_numbers(selection), "clusters": cluster_table(selection, index, partition),
            "sources": source_shares(selection, index), "stderr": list(scores.stderr) if scores else None,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(runs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of one run, of two runs side by side, and of a grid with missing cells."""
    root = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    cells = [
        {"selector": s, "budget": b, "seed": seed, "AP_bb": ap, "AP50_bb": 1.6 * ap, "AP": 0.9 * ap, "AP50": 1.4 * ap,
         "per_category": dict.fromkeys(CLASSES, ap / 2)}
        for s, b, mean in (("none", 0, 0.8), ("uniform", 0.1, 1.5), ("nds", 0.1, 1.6), ("uniform", 0.2, 1.7), ("nds", 0.2, 2.0))
        for seed, ap in enumerate(mean + rng.normal(0, 0.1, 3))
    ]  # fmt: skip
    rows = [
        ("none", 0),
        *((s, b) for b in (0.1, 0.2) for s in ("uniform", "nds")),
        ("oracle", 0.2),
        ("full", 1),
    ]
    table = build_table(
        rows, cells, title="Transfer to 100 images.", source="source", categories=CLASSES, seeds=(0, 1, 2), digits=2,
        from_random=True,
    )  # fmt: skip
    curve = budget_curve(table, root / "curve_AP_bb.png")
    return {
        "one": write_runs_report({"nds": runs["nds"]}, root / "one.html"),
        "two": write_runs_report(runs, root / "two.html"),
        "grid": write_grid_page(
            root / "grid.html", table.title, {"city": table}, [curve], (4, 1), "nds_20/seed0", runs["nds"]
        ),
    }


class Visit:
    """A page opened in the browser, and what happened on the way."""

    def __init__(self, browser: Any, path: Path, width: int) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, device_scale_factor=1)
        self.page = self.context.new_page()
        self.told: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        folder = os.environ.get("NDS_SCREENSHOTS")  # for a look at them
        if folder:
            self.page.screenshot(path=f"{folder}/{path.stem}_{width}.png", full_page=True)


@pytest.fixture(scope="module", params=[(n, w) for n in ("one", "two", "grid") for w in WIDTHS], ids=str)
def visit(request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]) -> Iterator[Visit]:
    name, width = request.param
    visit = Visit(browser, pages[name], width)
    yield visit
    visit.context.close()


def test_the_console_stays_silent(visit: Visit) -> None:
    assert visit.told == []


def test_no_request_leaves_the_machine(visit: Visit) -> None:
    assert visit.requests
    assert {url.partition(":")[0] for url in visit.requests} <= {"file", "data"}
    assert [url for url in visit.requests if url.startswith("file:")] == [visit.page.url]


def test_every_picture_is_shown(visit: Visit) -> None:
    sizes = visit.page.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(sizes) >= 3
    assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in sizes)


def test_the_page_never_scrolls_sideways_only_its_tables_do(visit: Visit) -> None:
    width = visit.page.viewport_size["width"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        visit.page.evaluate(
            "Math.max(...[...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().right))"
        )
        <= width
    )


def test_letters_are_large_enough_to_read(visit: Visit) -> None:
    sizes = visit.page.evaluate(
        "[...document.querySelectorAll('td, p, li, h1')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12


def test_the_page_is_light_enough_to_mail(pages: dict[str, Path]) -> None:
    for path in pages.values():
        assert path.stat().st_size < 1_500_000


def test_details_open_at_a_click(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["one"], 390)
    config = visit.page.locator("pre")
    assert not config.is_visible()
    visit.page.get_by_text("the whole config").click()
    assert config.is_visible()
    visit.context.close()


def test_the_dark_theme_changes_the_colours(browser: Any, pages: dict[str, Path]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(pages["one"].resolve().as_uri())
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert colours[0] != colours[1]
