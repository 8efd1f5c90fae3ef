"""Laws of the selection maths."""

from __future__ import annotations

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.selection.drawing import draw_subset, resolve_budget
from nds_plugin.selection.weights import (
    cluster_weights,
    effective_clusters,
    effective_sample_size,
    image_probabilities,
    normalise_scores,
)

WEIGHTS = np.array([0.5, 0.3, 0.2, 0.0])
CLUSTER = np.array([0] * 10 + [1] * 40 + [2] * 5 + [3] * 20 + [-1] * 7)


def test_weights_are_the_softmax_of_the_scaled_scores() -> None:
    z = [0.2, 0.6, 1.0]
    expected = np.exp(np.array([0.0, 0.5, 1.0]) / 0.1)
    np.testing.assert_allclose(cluster_weights(z, 0.1), expected / expected.sum())


def test_weights_do_not_change_when_scores_are_shifted_or_scaled_under_minmax() -> None:
    z = np.array([0.31, 0.9, 0.55, 0.7])
    np.testing.assert_allclose(cluster_weights(z), cluster_weights(100 * z - 7))


def test_equal_scores_give_equal_weights() -> None:
    np.testing.assert_allclose(cluster_weights([0.7] * 4), 0.25)


def test_a_small_temperature_does_not_overflow() -> None:
    weights = cluster_weights([0.0, 1000.0], 1e-6, "none")
    np.testing.assert_allclose(weights, [0.0, 1.0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(NDSError, match="temperature must be a positive number"):
        cluster_weights([0.1, 0.2], temperature)


def test_scores_that_are_not_finite_are_refused_by_cluster() -> None:
    with pytest.raises(NDSError, match="score of cluster 1 is nan"):
        cluster_weights([0.1, float("nan")])


def test_an_unknown_normalisation_lists_the_known_ones() -> None:
    with pytest.raises(NDSError, match=r"'minmix'.*minmax.*none"):
        normalise_scores([0.1], "minmix")


def test_probabilities_sum_to_one_and_are_the_weight_over_the_size() -> None:
    p = image_probabilities(WEIGHTS, CLUSTER)
    assert p.sum() == pytest.approx(1.0)
    assert p[0] == pytest.approx(0.5 / 10)
    assert p[10] == pytest.approx(0.3 / 40)
    assert (p[CLUSTER == 3] == 0).all()
    assert (p[CLUSTER == -1] == 0).all()


def test_the_weight_of_an_empty_cluster_goes_to_the_others() -> None:
    p = image_probabilities(np.array([0.5, 0.25, 0.25]), np.array([1, 2, 2]))
    np.testing.assert_allclose(p, [0.5, 0.25, 0.25])


def test_only_empty_clusters_are_refused() -> None:
    with pytest.raises(NDSError, match="nothing can be drawn"):
        image_probabilities(np.array([1.0, 0.0]), np.array([1, 1]))


@pytest.mark.parametrize("budget", [1, 7, 54, 55])
def test_the_budget_is_exact_without_repeats_and_without_impossible_images(budget: int) -> None:
    drawn = draw_subset(WEIGHTS, CLUSTER, budget, seed=3)
    assert len(drawn) == budget == len(set(drawn.tolist()))
    assert (np.diff(drawn) > 0).all()
    assert set(CLUSTER[drawn].tolist()) <= {0, 1, 2}


def test_a_budget_above_what_can_be_drawn_is_refused() -> None:
    with pytest.raises(NDSError, match="budget must be 1 to 55"):
        draw_subset(WEIGHTS, CLUSTER, 56, seed=0)


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_of_none_or_less_is_refused(budget: int) -> None:
    with pytest.raises(NDSError, match=f"budget must be 1 to 55, .*; got {budget}:"):
        draw_subset(WEIGHTS, CLUSTER, budget, seed=0)


def test_budgets_as_count_and_share() -> None:
    assert resolve_budget(1000, count=23) == 23
    assert resolve_budget(1000, share=0.2) == 200
    assert resolve_budget(1000, share=1.0) == 1000
    assert resolve_budget(3, share=0.01) == 1
    assert resolve_budget(500, share=0.2, whole=1000) == 200
    with pytest.raises(
        NDSError, match="budget must be 1 to 500, the number of images that can be drawn; got 600"
    ):
        resolve_budget(500, share=0.6, whole=1000)
    with pytest.raises(NDSError, match="as a number of images or as a share"):
        resolve_budget(10, count=2, share=0.1)
    with pytest.raises(NDSError, match="as a number of images or as a share"):
        resolve_budget(10)
    with pytest.raises(NDSError, match=r"share of the source to draw must lie in \(0, 1\]"):
        resolve_budget(10, share=1.5)


def test_the_same_seed_draws_the_same_and_another_seed_another_subset() -> None:
    big = np.arange(5000) % 4
    first = draw_subset(WEIGHTS, big, 500, seed=1)
    assert np.array_equal(first, draw_subset(WEIGHTS, big, 500, seed=1))
    assert not np.array_equal(first, draw_subset(WEIGHTS, big, 500, seed=2))


def test_a_larger_budget_contains_the_smaller_draw() -> None:
    big = np.arange(5000) % 4
    small = draw_subset(WEIGHTS, big, 100, seed=1)
    large = draw_subset(WEIGHTS, big, 3000, seed=1)
    assert set(small.tolist()) <= set(large.tolist())


def test_the_draw_is_that_of_the_exponential_clocks_without_the_shortcut() -> None:
    from nds_plugin.selection.counter_rng import Purpose, random_words, stream_key, to_open_unit

    big = (np.arange(20000) * 7919) % 4
    p = image_probabilities(WEIGHTS, big)
    clocks = -np.log(to_open_unit(random_words(stream_key(5, Purpose.SUBSET), 0, len(big))))
    with np.errstate(divide="ignore"):
        expected = np.sort(np.argsort(clocks / p, kind="stable")[:2000])
    assert np.array_equal(draw_subset(WEIGHTS, big, 2000, seed=5), expected)


def test_first_draws_follow_p() -> None:
    """The first image of a draw has probability p exactly: chi-square over 4,000 seeds."""
    cluster = np.array([0, 0, 1, 1, 1, 2])
    weights = np.array([0.5, 0.3, 0.2])
    draws = [int(draw_subset(weights, cluster, 1, seed)[0]) for seed in range(4000)]
    counts = np.bincount(draws, minlength=6)
    expected = 4000 * image_probabilities(weights, cluster)
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # 0.1 % quantile, 5 degrees of freedom


def test_later_draws_are_successive_draws_in_proportion_to_p() -> None:
    """P(both of a pair) of successive sampling, p_i p_j / (1 - p_i) + p_i p_j / (1 - p_j)."""
    cluster = np.array([0, 1, 2])
    p = np.array([0.6, 0.3, 0.1])
    seeds = 6000
    pairs = [tuple(draw_subset(p, cluster, 2, seed).tolist()) for seed in range(seeds)]
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        expected = p[i] * p[j] / (1 - p[i]) + p[i] * p[j] / (1 - p[j])
        sigma = np.sqrt(expected * (1 - expected) / seeds)
        assert abs(pairs.count((i, j)) / seeds - expected) < 4 * sigma


def test_the_draw_is_pinned_across_numpy_releases() -> None:
    assert draw_subset(WEIGHTS, CLUSTER, 6, seed=0).tolist() == PINNED_SUBSET


def test_effective_numbers() -> None:
    assert effective_clusters(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective_clusters(np.array([1.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([0.5, 0.5]), np.array([10, 30])) == pytest.approx(30)
    assert effective_sample_size(np.array([0.25, 0.75]), np.array([10, 30])) == pytest.approx(40)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(NDSError, match="seed must be an integer of 0 or more, below 2.64, got -1"):
        draw_subset(WEIGHTS, CLUSTER, 3, seed=-1)


PINNED_SUBSET = [17, 18, 21, 36, 46, 54]
