"""A search is the draw that the library makes of the same scores."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from service_demo import parts_of

from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experts.scores import Scores
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.drawing import expected_draws
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.base import SELECTORS, Softmax
from nds_plugin.selection.weights import available_weights, cluster_weights
from nds_plugin.service.published.store import PublishedSet, Store
from nds_plugin.service.server import manifests
from nds_plugin.service.server.draws import BusyError, Draws
from nds_plugin.service.server.selecting import Query, draw, make_query, mosaic_rows, preview, shares
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

Z = (0.9, 0.7, 0.4)


@pytest.fixture(scope="module")
def published(service_store: Path) -> PublishedSet:
    return Store(service_store).current()


def query(
    published: PublishedSet, sources: list[str] | None = None, z: object = Z, **config: object
) -> Query:
    selector = SELECTORS[str(config.pop("selector", "nds"))]
    own = {"temperature": config.pop("temperature", 0.5)} if issubclass(selector, Softmax) else {}
    settings = SelectionConfig(selector(**own), **{"count": 30, **config})  # type: ignore[arg-type]
    return make_query(published, settings, None if z is None else [0, 1, 2], z, sources, "accuracy")  # type: ignore[arg-type]


@pytest.mark.parametrize("selector", ["nds", "uniform"])
@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_a_search_of_all_sources_is_the_librarys_own_selection(
    service_store: Path, published: PublishedSet, tmp_path: Path, selector: str, seed: int
) -> None:
    parts = parts_of(service_store)
    index, partition = SourceIndex.load(parts["index"]), Partition.load(parts["partition"])
    scores = Scores([0, 1, 2], list(Z), [0.0] * 3, "accuracy", 0, published.expert_hash, "rotation")
    asked = query(published, seed=seed, selector=selector)
    ours = select(index, partition, asked.config, scores)
    path = tmp_path / "served.parquet"
    path.write_bytes(b"".join(manifests.as_parquet(published, draw(published, asked))))
    served = Selection.load(path)
    assert served.table.cast(ours.table.schema).equals(ours.table)
    assert (served.mode, served.info) == (ours.mode, ours.info)
    assert served.weights.tolist() == ours.weights.tolist()


def test_a_draw_depends_on_nothing_but_set_and_query(service_store: Path, published: PublishedSet) -> None:
    asked = query(published, ["room", "street"])
    again = draw(Store(service_store).current(), asked)
    assert draw(published, asked).rows.tolist() == again.rows.tolist()
    assert draw(published, query(published, ["street", "room"])).rows.tolist() == again.rows.tolist()


def test_images_come_only_from_the_chosen_sources(published: PublishedSet) -> None:
    asked = query(published, ["meadow", "room"])
    drawn = draw(published, asked)
    rows = manifests.image_rows(published, drawn, 0, 30)
    assert {row["source"] for row in rows} == {"meadow", "room"}
    assert drawn.info["sources"] == ["meadow", "room"]
    found = shares(published, asked, drawn)
    assert found["images"] == len(rows) == 30
    assert sum(found["share_by_source"].values()) == pytest.approx(1)
    assert "street" not in found["share_by_source"]


def test_the_preview_is_what_draws_give_on_average(published: PublishedSet) -> None:
    asked = query(published)
    expected = preview(published, asked)
    total = np.zeros(3)
    for seed in range(400):
        total += shares(published, asked, draw(published, query(published, seed=seed)))["share_by_cluster"]
    # 400 draws of 30: the standard error of a share is below 0.5 %.
    assert np.abs(total / 400 - expected["expected_share_by_cluster"]).max() < 0.02
    assert sum(expected["expected_share_by_source"].values()) == pytest.approx(1)


def test_expected_draws_never_exceed_a_cluster_and_add_up_to_the_budget() -> None:
    rng = np.random.default_rng(0)
    for temperature in (1e-3, 0.01, 0.1, 10.0):
        for _ in range(20):
            sizes = rng.integers(0, 500, 12)
            sizes[0] += 1
            weights = available_weights(cluster_weights(rng.random(12), temperature), sizes)
            drawable = int(sizes[weights > 0].sum())
            for budget in {1, drawable // 2 or 1, drawable}:
                found = expected_draws(weights, sizes, budget)
                assert (found <= sizes + 1e-9).all()
                assert found.sum() == pytest.approx(budget, rel=1e-9)


def test_a_budget_beyond_what_can_be_drawn_is_refused(published: PublishedSet) -> None:
    for function in (preview, draw):
        with pytest.raises(NDSError, match="budget must be 1 to 24"):
            function(published, query(published, ["street"], count=25))


def test_scores_that_do_not_fit_are_refused(published: PublishedSet) -> None:
    config = SelectionConfig(count=3)
    with pytest.raises(NDSError, match="exactly the clusters 0 to 2 in this order, got 2 clusters"):
        make_query(published, config, [0, 1], [1.0, 2.0], None, "accuracy")
    with pytest.raises(NDSError, match="exactly the clusters 0 to 2 in this order"):
        make_query(published, config, [2, 1, 0], [1.0, 2.0, 3.0], None, "accuracy")
    with pytest.raises(NDSError, match="expected 3 scores, one of each cluster, got 2"):
        make_query(published, config, [0, 1, 2], [1.0, 2.0], None, "accuracy")
    with pytest.raises(NDSError, match="the selector nds needs scores"):
        make_query(published, config, None, None, None, "accuracy")
    with pytest.raises(UnknownNameError, match="unknown source 'stret'. Did you mean 'street'"):
        make_query(published, config, [0, 1, 2], list(Z), ["stret"], "accuracy")
    with pytest.raises(NDSError, match="no source is chosen"):
        make_query(published, config, [0, 1, 2], list(Z), [], "accuracy")


def test_the_mosaic_shows_members_of_the_heaviest_clusters_in_the_chosen_sources(
    published: PublishedSet,
) -> None:
    found = mosaic_rows(published, query(published))
    assert [k for k, _ in found] == [0, 1, 2]
    for k, rows in found:
        assert len(rows) == len(set(rows)) == 9
        assert (published.cluster[rows] == k).all()
    assert mosaic_rows(published, query(published)) == found
    assert mosaic_rows(published, query(published, seed=1)) != found
    assert [k for k, _ in mosaic_rows(published, query(published, ["room"], count=2))] == [2]


def test_a_search_is_drawn_once_and_old_draws_are_let_go(published: PublishedSet) -> None:
    draws = Draws()
    first = draws.get(published, query(published))
    assert draws.get(published, query(published)) is first
    draws = Draws(max_bytes=2 * draws.bytes)
    first = draws.get(published, query(published))
    for seed in (1, 2):
        draws.get(published, query(published, seed=seed))
    again = draws.get(published, query(published))
    assert again is not first
    assert again.rows.tolist() == first.rows.tolist()


def test_the_memory_of_kept_draws_is_bounded_also_where_each_is_of_one_image(published: PublishedSet) -> None:
    draws = Draws(max_bytes=100_000)
    tracemalloc.start()
    try:
        for seed in range(300):
            draws.get(published, query(published, count=1, seed=seed))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 50_000 < draws.bytes <= 100_000
    assert taken < 200_000


def test_who_waits_too_long_for_others_draws_is_told_to_come_back(published: PublishedSet) -> None:
    draws = Draws(patience_s=0.01)
    for _ in range(2):
        assert draws._turn.acquire()
    with pytest.raises(BusyError, match="too many searches at once"):
        draws.get(published, query(published))
