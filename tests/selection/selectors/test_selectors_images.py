"""Laws of the selectors that weigh single images: neighbours, domain classifier, oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import evidence, features, permuted

from nds_plugin.errors import NDSError
from nds_plugin.images.cost import Cost
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.drawing import draw_by_probability, draw_subset
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.base import Evidence, Features, ImageSelector, weigh_images
from nds_plugin.selection.selectors.domain_classifier import DomainClassifier, log_density_ratio
from nds_plugin.selection.selectors.knn import NearestNeighbours, mean_similarity
from nds_plugin.selection.selectors.oracle import Oracle
from nds_plugin.selection.streams import ProbabilityStream
from nds_plugin.selection.tables import effective_numbers, source_shares
from nds_plugin.selection.weights import image_probabilities
from nds_plugin.source.partition import Partition

WEIGHERS: dict[str, ImageSelector] = {
    "knn": NearestNeighbours(),
    "knn, nearest ten": NearestNeighbours(neighbours=10),
    "domain_classifier": DomainClassifier(),
    "oracle": Oracle(sources=("near",), rest=0.01),
}
each_selector = pytest.mark.parametrize("selector", WEIGHERS.values(), ids=list(WEIGHERS))


def drawn(weights: ImageWeights, given: Evidence, mode: str = "subset", seed: int = 0) -> Selection:
    config = SelectionConfig(
        SELECTORS[weights.selector], mode, count=30 if mode == "subset" else 0, seed=seed
    )
    return select(given.index, Partition.by_source(given.index), config, image_weights=weights)


@each_selector
def test_the_planted_domain_is_drawn_beyond_its_share(selector: ImageSelector) -> None:
    given = evidence()
    shares = {
        r["source"]: r["draw_share"]
        for r in source_shares(drawn(weigh_images(selector, given), given), given.index)
    }
    assert shares["near"] > 0.6  # of the index it is 0.2


@each_selector
def test_the_budget_is_exact_and_nothing_is_drawn_twice(selector: ImageSelector) -> None:
    given = evidence()
    selection = drawn(weigh_images(selector, given), given)
    rows = list(zip(selection.column("source").to_pylist(), selection.column("image_id").to_pylist()))
    assert len(rows) == len(set(rows)) == selection.info["budget"] == 30


@each_selector
def test_one_seed_gives_one_draw_and_another_seed_another(selector: ImageSelector) -> None:
    given = evidence()
    first, again = (drawn(weigh_images(selector, given), given) for _ in range(2))
    assert first.table.equals(again.table)
    assert not first.table.equals(drawn(weigh_images(selector, given), given, seed=1).table)


@each_selector
@pytest.mark.parametrize("mode", ["subset", "stream"])
def test_no_unreadable_image_is_drawn(selector: ImageSelector, mode: str) -> None:
    given = evidence(broken=4)
    if not selector.sees_target:
        pytest.skip("the oracle looks at no image")
    weights = weigh_images(selector, given)
    assert given.source is not None
    assert (weights.p[~given.source.readable] == 0).all()
    assert {"0", "1", "2", "3"}.isdisjoint(drawn(weights, given, mode).column("image_id").to_pylist())


@each_selector
def test_the_order_of_the_index_changes_no_probability(selector: ImageSelector) -> None:
    given = evidence(broken=2)
    order = np.random.default_rng(5).permutation(len(given.index))
    p, other = weigh_images(selector, given).p, weigh_images(selector, permuted(given, order)).p
    np.testing.assert_allclose(other, p[order], rtol=1e-4)


@each_selector
def test_forty_target_images_one_of_them_broken_are_enough(selector: ImageSelector) -> None:
    given = evidence(target=40, broken=1)
    weights = weigh_images(selector, given)
    assert weights.p[:60].sum() > 0.6
    assert weights.p.sum() == pytest.approx(1.0)


@each_selector
def test_the_record_says_whether_the_target_was_looked_at_and_what_it_cost(selector: ImageSelector) -> None:
    given = evidence()
    weights = weigh_images(selector, given)
    info = drawn(weights, given).info
    assert info["sees_target"] is (selector.name in ("knn", "domain_classifier"))
    passes = 40 if selector.sees_target else 0
    assert info["cost"] == {"images": passes, "forward_passes": passes, "seconds": passes / 160}
    assert info["details"]["settings"]
    assert effective_numbers(drawn(weights, given))["effective_sample_size"] == pytest.approx(
        1 / np.square(weights.p).sum()
    )


def test_saved_weights_are_the_same_weights(tmp_path: Path) -> None:
    given = evidence()
    weights = weigh_images(NearestNeighbours(), given)
    weights.save(tmp_path / "weights.parquet", "k")
    loaded = ImageWeights.load(tmp_path / "weights.parquet")
    np.testing.assert_allclose(loaded.p, weights.p, rtol=1e-15)
    assert loaded.cost == Cost(40, 40, 0.25)
    assert (loaded.selector, loaded.sees_target, loaded.details) == ("knn", True, weights.details)
    assert loaded.identities.equals(weights.identities.cast(loaded.identities.schema))


def test_draws_by_cluster_and_by_image_agree_where_the_probabilities_do() -> None:
    cluster = np.array([0] * 50 + [1] * 30 + [-1] * 5)
    weights = np.array([0.3, 0.7])
    p = image_probabilities(weights, cluster)
    for budget in (1, 20, 80):
        np.testing.assert_array_equal(
            draw_by_probability(p, budget, seed=3), draw_subset(weights, cluster, budget, seed=3)
        )


def test_a_stream_of_single_images_draws_by_p_and_from_any_position() -> None:
    p = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    stream = ProbabilityStream(p, seed=1)
    elements = stream.draw(0, 40_000)
    np.testing.assert_allclose(np.bincount(elements, minlength=6) / 40_000, p, atol=0.01)
    np.testing.assert_array_equal(stream.draw(777, 999), elements[777:999])


def test_a_stream_follows_p_in_a_dataset_of_another_order() -> None:
    given = evidence()
    selection = drawn(weigh_images(NearestNeighbours(), given), given, "stream")
    rows = np.random.default_rng(2).permutation(len(given.index))[:200]  # the dataset lacks a third
    sources = given.index.column("source")[rows].tolist()
    ids = given.index.column("image_id")[rows].tolist()
    elements = selection.placed(sources, ids).stream(seed=0).draw(0, 60_000)
    p = weigh_images(NearestNeighbours(), given).p[rows]
    np.testing.assert_allclose(np.bincount(elements, minlength=200) / 60_000, p / p.sum(), atol=0.004)


def test_the_density_ratio_is_that_of_the_densities() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(0, 1, (3000, 1)).astype(np.float32)
    target = rng.normal(1, 1, (600, 1)).astype(np.float32)
    ratio = log_density_ratio(source, target, rng.permutation(3000), l2=1e-6, folds=5)
    # log N(x; 1, 1) - log N(x; 0, 1) = x - 1/2
    np.testing.assert_allclose(ratio, source[:, 0] - 0.5, atol=0.35)


def test_similarity_to_all_is_the_mean_cosine_of_centred_features() -> None:
    rng = np.random.default_rng(1)
    source, target = features(rng, 30, False), features(rng, 7, True)
    centred = [x - source.mean(axis=0) for x in (source, target)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in centred]
    cosine = unit[0] @ unit[1].T
    np.testing.assert_allclose(mean_similarity(source, target), cosine.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(mean_similarity(source, target, 1), cosine.max(axis=1), atol=1e-5)


def test_the_oracle_draws_nothing_else_unless_it_has_a_rest() -> None:
    given = evidence()
    p = weigh_images(Oracle(classes=("car",)), given).p
    np.testing.assert_allclose(p, np.r_[np.full(60, 1 / 60), np.zeros(240)])
    weights = weigh_images(Oracle(sources=("near",)), given)
    with pytest.raises(NDSError, match=r"budget must be 1 to 60, .*; got 100"):
        select(
            given.index, Partition.by_source(given.index), SelectionConfig(Oracle, count=100), None, weights
        )
    a_tenth = SelectionConfig(Oracle, share=0.1)
    assert len(select(given.index, Partition.by_source(given.index), a_tenth, None, weights)) == 30
    filled = weigh_images(Oracle(sources=("near",), rest=0.001), given)
    config = SelectionConfig(Oracle, count=100)
    selection = select(given.index, Partition.by_source(given.index), config, None, filled)
    assert selection.column("source").to_pylist().count("near") == 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestNeighbours(neighbours=-1), "knn neighbours must be 0 or more"),
        (lambda: NearestNeighbours(temperature=0.0), "knn temperature must be above 0"),
        (lambda: DomainClassifier(l2=0.0), "domain_classifier l2 must be above 0"),
        (lambda: DomainClassifier(folds=1), "domain_classifier folds must be 2 or more"),
        (lambda: Oracle(), "oracle needs the source datasets or main classes"),
        (lambda: Oracle(sources=("near",), rest=1.0), "oracle rest must be 0 or more and below 1"),
        (lambda: weigh_images(Oracle(("naer",)), evidence()), "unknown source of the oracle 'naer'.*'near'"),
        (lambda: weigh_images(Oracle(classes=("shoes",)), evidence()), "unknown class of the oracle 'shoes'"),
        (lambda: weigh_images(NearestNeighbours(), Evidence(evidence().index)), "compares features: give"),
        (
            lambda: select(
                evidence().index,
                Partition.by_source(evidence().index),
                SelectionConfig(NearestNeighbours, count=3),
            ),
            "knn selector needs weights of the source's images",
        ),
        (
            lambda: select(
                evidence().index,
                Partition.by_source(evidence().index),
                SelectionConfig(NearestNeighbours, count=3),
                image_weights=weigh_images(Oracle(("near",)), evidence()),
            ),
            "weighed by the selector oracle, not by knn",
        ),
        (
            lambda: drawn(weigh_images(NearestNeighbours(), evidence()), evidence(near=61)),
            "are of 300 images, which are not the 301 of the index",
        ),
    ],
)
def test_what_cannot_work_is_told_in_one_line(make: object, message: str) -> None:
    with pytest.raises(NDSError, match=message) as raised:
        make()  # type: ignore[operator]
    assert "\n" not in str(raised.value)


def test_features_of_two_networks_are_refused() -> None:
    given = evidence()
    other = Features(np.ones((5, 3), dtype=np.float32), np.ones(5, dtype=bool))
    with pytest.raises(NDSError, match="of the source have 24 numbers, those of the target 3"):
        weigh_images(DomainClassifier(), Evidence(given.index, given.source, other))
