"""Laws of the figures and of the HTML report."""

from __future__ import annotations

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nds_plugin.datasets.sample import generate as sample
from nds_plugin.errors import NDSError
from nds_plugin.report import canvas, embed, figures, mosaic, sections
from nds_plugin.report.html import render, write_report
from nds_plugin.report.runs import results_table, selection_parts, write_selection_report
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.base import Evidence, weigh_images
from nds_plugin.selection.selectors.oracle import Oracle
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

DATA = os.environ.get("NDS_DATA")
VOID = {"meta", "img", "br", "link", "hr", "input"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SourceIndex:
    root = tmp_path_factory.mktemp("sample")
    sample.generate(root, train_images=12, val_images=1, domains=["street", "room", "shelf"])
    return SourceIndex.from_records(
        ImageRecord(name, str(i), str(root / name / "images" / f"train_{i + 1:06d}.jpg"))
        for name in ("street", "room", "shelf")
        for i in range(12)
    )


@pytest.fixture(scope="module")
def partition(index: SourceIndex) -> Partition:
    cluster = np.repeat([0, 1, 2], 12)
    cluster[30:] = 3
    cluster[5] = -1  # an image of no cluster
    return Partition(cluster, index.table, index.hash, method="kmeans", seed=0)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


class _Checker(HTMLParser):
    """Collects tags, text and attributes; fails where tags are not balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def row(ap: float, **more: Any) -> dict[str, Any]:
    return {
        "AP_bb": ap + 1,
        "AP50_bb": ap + 9,
        "AP": ap,
        "AP50": ap + 7,
        "per_category": {"car": ap, "bus": None},
        **more,
    }


def whole_run(tmp_path: Path) -> dict[str, Any]:
    Image.new("RGB", (300, 200), (200, 80, 40)).save(tmp_path / "one.png")
    return {
        "title": "A run", "subtitle": "20 %", "synthetic": True, "notes": ["take care"],
        "results": {"none": row(5.0), "uniform": row(20.0, seeds=3, spread={"AP": 0.5}), "nds": row(18.25)},
        "pictures": [{"path": tmp_path / "one.png", "title": "One", "caption": "a picture"}],
        "clusters": [{"cluster": 4, "sources": "street 92%", "images": 240, "z": 0.93, "stderr": 0.01, "w": 0.8, "share": 0.7},
                     {"cluster": 1, "sources": "room 99%", "images": 12, "z": None, "w": 0.2, "share": 0.3}],
        "selection": {"effective_clusters": 1.65, "effective_sample_size": 12345.6},
        "sources": [{"source": "street", "index_share": 0.25, "draw_share": 0.75}],
        "transfer": {"classes": [{"target": "car", "source": "vehicle", "how": "synonym"}], "kept": ["backbone.a"],
                     "mapped": ["head.b"], "dropped": {"head.c": "not in the model"}, "initialised": [], "missing": []},
        "timings": {"pretrain": 100.0, "finetune": 20.5}, "versions": {"torch": "2.9"}, "config": {"NDS": {"SEED": 3}},
    }  # fmt: skip


def test_top_clusters_go_by_z_then_w_then_number() -> None:
    assert figures.top_clusters([0.5, 0.9, 0.5, 0.5], [0.1, 0.2, 0.3, 0.1], 3) == [1, 2, 0]


def test_images_of_a_cluster_are_its_own_seeded_and_do_not_repeat(partition: Partition) -> None:
    chosen = mosaic.cluster_images(partition, 1, 9, seed=0)
    assert chosen == mosaic.cluster_images(partition, 1, 9, seed=0)
    assert chosen != mosaic.cluster_images(partition, 1, 9, seed=1)
    assert len(set(chosen)) == 9
    assert set(partition.cluster[chosen].tolist()) == {1}
    assert len(mosaic.cluster_images(partition, 3, 9, seed=0)) == 6
    assert 5 not in mosaic.cluster_images(partition, 0, 99, seed=0)


@pytest.mark.parametrize("mode", ["subset", "stream"])
def test_images_of_a_draw_are_drawn_ones(
    mode: str, index: SourceIndex, partition: Partition, tmp_path: Path
) -> None:
    config = SelectionConfig(selector=Oracle(sources=("room",)), mode=mode, count=8)
    selection = select(index, partition, config, None, weigh_images(config.selector, Evidence(index)))
    chosen = mosaic.drawn_images(index, selection, 5, seed=0)
    assert len(set(chosen)) == 5
    assert {index[i].source for i in chosen} == {"room"}
    drawn = set(selection.column("image_id").to_pylist())
    assert {index[i].image_id for i in chosen} <= drawn
    most = mosaic.drawn_images(index, selection, 99, seed=0)
    assert sorted(index[i].image_id for i in most) == sorted(drawn)
    assert figures.draw_sheet(index, selection, tmp_path / "draw.png", images=5).is_file()


def test_a_cluster_that_is_used_up_is_named() -> None:
    rows = [
        {"cluster": 4, "images": 200, "w": 0.9, "share": 0.66},
        {"cluster": 1, "images": 400, "w": 0.1, "share": 0.34},
    ]
    said = sections.clusters(rows, {"mode": "subset", "images": 300})
    assert "Cluster 4 is used up" in said
    assert "used up" not in sections.clusters(rows, {"mode": "subset", "images": 150})
    assert "used up" not in sections.clusters(rows, {"mode": "stream", "images": 300})


@pytest.mark.slow
def test_the_sheet_repeats_and_changes_with_the_seed(
    index: SourceIndex, partition: Partition, tmp_path: Path
) -> None:
    z, w = [0.9, 0.8, 0.7, 0.6], [0.7, 0.2, 0.06, 0.04]
    paths = [
        figures.cluster_sheet(index, partition, z, w, tmp_path / f"{i}.png", clusters=2, seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_an_unreadable_image_is_a_crossed_cell_and_a_missing_one_an_empty_cell(
    index: SourceIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    records = [index[0], ImageRecord("street", "b", str(tmp_path / "broken.jpg"))]
    sheet = mosaic.mosaic_of(SourceIndex.from_records(records), [0, 1], side=2, images=3)
    step, cell = mosaic.CELL + mosaic.GAP, mosaic.CELL
    photo, broken, empty = (
        sheet[:cell, :cell],
        sheet[:cell, step : step + cell],
        sheet[step : step + cell, :cell],
    )
    assert photo.std() > 10
    assert set(np.unique(broken)) == {176, 242}
    assert set(np.unique(empty)) == {242}
    assert "broken.jpg" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores_z": [0.1, 0.2]}, r"expected scores of the 4 clusters, got an array of shape \(2,\)"),
        ({"weights": [1.0]}, r"expected weights of the 4 clusters, got an array of shape \(1,\)"),
        ({"clusters": 0}, "clusters must be at least 1, got 0"),
        ({"images": 0}, "images must be at least 1, got 0"),
    ],
)
def test_a_sheet_of_wrong_lengths_or_counts_is_refused(
    index: SourceIndex, partition: Partition, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"scores_z": np.ones(4), "weights": np.ones(4) / 4, **arguments}
    with pytest.raises(NDSError, match=message):
        figures.cluster_sheet(index, partition, path=tmp_path / "x.png", **given)
    assert not (tmp_path / "x.png").exists()


def amber(path: Path) -> np.ndarray:
    """Number of pixels of the weights' colour in each row of a chart."""
    colour = np.array([int(canvas.AMBER[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(pixels(path) - colour).sum(axis=2) < 12).sum(axis=1)


def test_bars_are_as_long_as_the_weights_best_first(tmp_path: Path) -> None:
    path = figures.weight_bars([0.2, 0.1, 0.7], tmp_path / "w.png", labels=["a", "b", "c"])
    lengths = [int(n) for n in amber(path) if n > 20]
    runs = [lengths[0]]
    for length in lengths:
        if abs(length - runs[-1]) > 5:
            runs.append(length)
    assert len(runs) == 3
    assert runs[0] / runs[1] == pytest.approx(3.5, rel=0.05)
    assert runs[1] / runs[2] == pytest.approx(2.0, rel=0.08)


@pytest.mark.parametrize("count", [1, 3, 50, 200])
def test_scores_and_weights_of_any_number_of_clusters_make_a_chart_of_fair_size(
    tmp_path: Path, count: int
) -> None:
    z = -np.linspace(0.0, 1.0, count)
    path = figures.weight_bars(np.full(count, 1 / count), tmp_path / "w.png", z, np.full(count, 0.01))
    height, width, _ = pixels(path).shape
    assert 700 < width < 1200
    assert 150 < height < 1900


def test_scores_of_another_length_than_the_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="weight_bars: 3 weights, but 2 z"):
        figures.weight_bars([0.2, 0.1, 0.7], tmp_path / "w.png", z=[1, 2])
    with pytest.raises(NDSError, match="expected at least one source"):
        figures.share_bars([], tmp_path / "s.png")


def test_shares_show_the_draw_longer_than_the_index_where_it_is(tmp_path: Path) -> None:
    rows = [
        {"source": "a", "index_share": 0.5, "draw_share": 0.1},
        {"source": "b", "index_share": 0.5, "draw_share": 0.9},
    ]
    lengths = [n for n in amber(figures.share_bars(rows, tmp_path / "s.png")) if n > 40]
    assert lengths[0] / lengths[-1] > 5  # b's bar on top, a's below


def test_the_users_matplotlib_style_is_left_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.weight_bars([0.5, 0.5], tmp_path / "w.png")
    assert dict(matplotlib.rcParams) == before


def test_a_page_needs_only_a_title(tmp_path: Path) -> None:
    page = write_report(tmp_path / "sub" / "r.html", {"title": "Only this"}).read_text()
    checker = checked(page)
    assert "Only this" in checker.text
    assert "section" not in checker.tags
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_the_whole_page_is_balanced_self_contained_and_shows_every_part(tmp_path: Path) -> None:
    page = render(whole_run(tmp_path))
    checker = checked(page)
    assert not {"script", "link", "iframe"} & set(checker.tags)
    assert all(link.startswith("data:image/") for link in checker.links)
    assert "http:" not in page
    assert "https:" not in page
    for text in (
        "Synthetic data.", "take care", "AP50", "street 92%", "0.930", "1.65", "12,346", "vehicle", "head.c: not in the model",
        "1 min 40 s", "2 min 00 s", '"SEED": 3', "\u00d7 3.00", "kept (1)", "missing (0)",
    ):  # fmt: skip
        assert text in checker.text, text


def test_the_best_of_a_column_is_bold_and_differences_keep_their_sign(tmp_path: Path) -> None:
    page = render(whole_run(tmp_path))
    assert re.search(r"<td>uniform</td><td class=best>21\.00</td>", page)
    assert "<td>nds &minus; uniform</td><td class='down'>&minus;1.75</td>" in page  # NDS lost: it says so
    assert "20.00 <span class='spread'>&plusmn; 0.50</span>" in page
    assert "<td>nds</td><td class=best>" not in page


def test_none_is_bold_where_all_show_the_same() -> None:
    page = render({"title": "t", "results": {"none": {"AP": 1.001}, "nds": {"AP": 1.004}}})
    assert "1.00" in page
    assert "class=best" not in page


def test_what_was_not_computed_is_a_dash() -> None:
    page = render({"title": "t", "results": {"nds": {"AP_bb": float("nan"), "AP": None, "AP50": 3.0}}})
    assert page.count("&ndash;") == 3
    assert "nan" not in checked(page).text.lower()


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\""
    run = whole_run(tmp_path)
    run.update(
        title=evil, subtitle=evil, notes=[evil], config=evil, versions={evil: evil}, timings={evil: 1.0}
    )
    run["results"] = {evil: {"AP": 1.0, "per_category": {evil: 1.0}}, "uniform": {"AP": 2.0}}
    run["pictures"][0].update(title=evil, caption=evil)
    run["clusters"][0].update(sources=evil, cluster=evil)
    run["selection"] = {evil: evil}
    run["sources"][0]["source"] = evil
    run["transfer"] = {
        "classes": [{"target": evil, "source": evil, "how": evil}],
        "kept": [evil],
        "dropped": {evil: evil},
    }
    checker = checked(render(run))
    assert "script" not in checker.tags
    assert checker.text.count(evil) >= 18


@pytest.mark.slow
def test_large_photographs_are_compressed_until_the_page_can_be_mailed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 255, (90, 160, 3), dtype=np.uint8))
        noise = np.asarray(coarse.resize((1600, 900))).astype(int) + rng.normal(0, 12, (900, 1600, 1))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(
            tmp_path / f"{number}.png", compress_level=1
        )
        pictures.append({"path": tmp_path / f"{number}.png", "title": str(number)})
    path = write_report(tmp_path / "r.html", {"title": "t", "pictures": pictures})
    assert path.stat().st_size < 1_500_000
    assert checked(path.read_text()).links[0].startswith("data:image/jpeg")


def test_a_chart_stays_a_sharp_png(tmp_path: Path) -> None:
    chart = figures.weight_bars([0.2, 0.1, 0.7], tmp_path / "w.png")
    (uri,) = embed.data_uris([chart])
    assert uri.startswith("data:image/png;base64,")
    (tmp_path / "again.png").write_bytes(base64.b64decode(uri.split(",")[1]))
    assert np.abs(pixels(chart) - pixels(tmp_path / "again.png")).mean() < 2


def test_a_report_without_title_or_with_an_unknown_part_or_a_missing_picture_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.html"
    with pytest.raises(NDSError, match="the run needs a 'title'"):
        write_report(path, {})
    with pytest.raises(NDSError, match="unknown part 'result' of the run; known: title, "):
        write_report(path, {"title": "t", "result": {}})
    with pytest.raises(NDSError, match=r"gone\.png: no such image file"):
        write_report(path, {"title": "t", "pictures": [{"path": "gone.png"}]})
    assert not path.exists()


@pytest.mark.skipif(not DATA, reason="NDS_DATA is not set: the folder with real photographs")
def test_a_sheet_of_real_photographs_shows_no_crossed_cell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(str(DATA)) / "detection" / "camvid"
    images = json.loads((folder / "train.json").read_text())["images"][:30]
    index = SourceIndex.from_records(
        ImageRecord("camvid", str(image["id"]), str(folder / "images" / os.path.basename(image["file_name"])))
        for image in images
    )
    partition = Partition(np.arange(30) % 3, index.table, index.hash, method="kmeans", seed=0)
    path = figures.cluster_sheet(index, partition, [0.9, 0.8, 0.7], [0.6, 0.3, 0.1], tmp_path / "real.png")
    assert pixels(path).std() > 30
    assert caplog.text == ""


def test_the_seed_of_the_training_stands_beside_that_of_the_selection(tmp_path: Path) -> None:
    sources = [{"source": "street", "index_share": 1.0, "draw_share": 1.0}]
    run = {
        "selection": {"selector": "uniform", "seed": 3, "z": None, "sources": sources},
        "times": {}, "versions": {}, "machine": {}, "config": "",
    }  # fmt: skip
    assert selection_parts(run, tmp_path / "r.html", 0)["selection"] == {"selector": "uniform", "seed": 3}
    parts = selection_parts({**run, "training_seed": 7}, tmp_path / "r.html", 0)
    assert parts["selection"] == {"selector": "uniform", "seed": 3, "training_seed": 7}


def test_weights_that_held_until_the_experts_were_scored_again_are_told_so(tmp_path: Path) -> None:
    sources = [{"source": "street", "index_share": 1.0, "draw_share": 1.0}]
    selection = {"selector": "uniform", "z": None, "sources": sources, "rescored_after": [30, 60]}
    run = {"selection": selection, "times": {}, "versions": {}, "machine": {}, "config": ""}
    facts = selection_parts(run, tmp_path / "r.html", 0)["selection"]
    assert facts["scored again after iterations"].startswith("30, 60; z, w and shares")


def test_the_page_of_a_draw_shows_it_without_results(tmp_path: Path) -> None:
    """Here that of a selector without scores, which has no clusters to show."""
    sources = [{"source": "street", "index_share": 0.5, "draw_share": 1.0}]
    selection = {
        "selector": "knn", "details": {"unit": "object"}, "target_images": 9, "sees_target": True, "path": "nds/drawn.parquet",
        "mode": "stream", "budget": 5, "images": 5, "z": None, "sources": sources, "rescored_after": [30],
    }  # fmt: skip
    run = {
        "target": ["city"], "selection": selection, "times": {"index": 1.0}, "versions": {}, "machine": {}, "config": "a: 1",
    }  # fmt: skip
    page = write_selection_report(run, tmp_path / "selection.html").read_text()
    assert "<h1>Pretraining data for city</h1>" in page
    assert "Selected by knn" in page
    assert "nds/drawn.parquet" in page
    facts = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    assert {("unit", "object"), ("target objects", "9"), ("images with a weight", "5")} <= set(facts)
    assert ("looks at", "the client&#x27;s images") in facts
    assert "budget" not in dict(facts)
    assert "scored again after iterations" in page
    assert "Where the draw comes from" in page
    assert "Results on the target" not in page
    assert "The clusters that scored best" not in page
    assert "Synthetic data" not in page


def test_runs_of_classifiers_are_compared_by_their_accuracy(tmp_path: Path) -> None:
    rows = {
        "uniform": {
            "top1": 40.0,
            "mean_per_class": 38.5,
            "per_class": {"ape": 50.0, "bee": None},
            "images": 6,
        },
        "nds": {"top1": 50.0, "mean_per_class": 49.0, "per_class": {"ape": 62.5, "bee": 35.5}, "images": 6},
    }
    assert [line.split() for line in results_table(rows).splitlines()[2:]] == [
        ["uniform", "40.00", "38.50"],
        ["nds", "50.00", "49.00"],
    ]
    page = write_report(tmp_path / "r.html", {"title": "t", "results": rows}).read_text("utf-8")
    for text in ("top-1 per class", "ape", "62.5", "+10.0"):
        assert text in page
    with pytest.raises(NDSError, match="nds is the run of a classifier and none that of a detector"):
        results_table({"none": row(5.0), "nds": rows["nds"]})
