"""Budgets, and the draw of exactly so many images by their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.selection.counter_rng import Purpose, random_words, stream_key, to_open_unit
from nds_plugin.selection.weights import Floats, Ints, cluster_sizes, image_rates, normalise_probabilities

Blocks = Iterator[tuple[int, npt.NDArray[np.integer]]]
_BLOCK = 1 << 20  # images whose random words are made at a time


def check_budget(count: int = 0, share: float = 0.0) -> None:
    """What can be said of a budget without knowing the images.

    Raises:
        NDSError: both or neither given, or a share that is not in (0, 1].
    """
    if (count != 0) == (share != 0.0):
        raise NDSError(
            "give the budget as a number of images or as a share of the source, one of the two (--images or --share; "
            f"NDS.BUDGET.IMAGES or NDS.BUDGET.SHARE): got {count} images and a share of {share:g}."
        )
    if count == 0 and not 0.0 < share <= 1.0:
        raise NDSError(f"the share of the source to draw must lie in (0, 1], got {share}.")


def resolve_budget(images: int, count: int = 0, share: float = 0.0, whole: int | None = None) -> int:
    """The number of images to draw, from a count or a share of a source.

    Args:
        images: that can be drawn.
        count, share: one of them.
        whole: images of the source, which a share is of, drawable or not; ``images`` by default.

    Raises:
        NDSError: both or neither given, or the budget is not in 1 .. images.
    """
    check_budget(count, share)
    budget = count if count else max(1, round(share * (images if whole is None else whole)))
    check_drawable(budget, images)
    return int(budget)


def check_drawable(budget: int, images: int) -> None:
    """See that so many of ``images`` that can be drawn can be.

    Raises:
        NDSError: the budget is not in 1 .. images.
    """
    if not 1 <= budget <= images:
        raise NDSError(
            f"budget must be 1 to {images}, the number of images that can be drawn; got {budget}: ask for another "
            "number or share of images."
        )


def expected_draws(weights: Floats, sizes: Ints, budget: int) -> Floats:
    """Images of each cluster in a draw of ``budget``, in expectation, shape (K,); sums to the budget.

    Small clusters of a large weight are drawn empty, so that this is not budget x w. The clocks of
    :func:`draw_subset` are taken to stop at the time by which ``budget`` rang in expectation.

    Raises:
        NDSError: the budget is not in 1 .. number of images with a positive probability.
    """
    rates = image_rates(weights, sizes)
    positive = rates > 0
    check_drawable(budget, int(sizes[positive].sum()))
    time = _time_of(float(budget), rates[positive], sizes[positive])
    found = np.zeros(len(rates))
    found[positive] = sizes[positive] * -np.expm1(-rates[positive] * time)
    return found


def draw_subset(weights: Floats, cluster: npt.NDArray[np.integer], budget: int, seed: int) -> Ints:
    """Draw exactly ``budget`` images without replacement, successively in proportion to p.

    Every image gets an exponential clock of rate p(x); the first ``budget`` to ring are drawn,
    which is successive sampling (Efraimidis and Spirakis, 2006). A larger budget under the same
    seed therefore contains the smaller draw.

    Args:
        weights: w, shape (K,).
        cluster: cluster of each image, shape (N,); -1 is never drawn.
        budget: number of images.
        seed: 0 or more.

    Returns:
        Positions of the drawn images in ascending order, shape (budget,).

    Raises:
        NDSError: the budget is not in 1 .. number of images with a positive probability.
    """
    cluster = np.asarray(cluster)

    def blocks() -> Blocks:
        for start in range(0, len(cluster), _BLOCK):
            yield start, cluster[start : start + _BLOCK]

    return draw_from_blocks(weights, cluster_sizes(cluster, len(weights)), blocks, budget, seed)[0]


def draw_from_blocks(
    weights: Floats, sizes: Ints, blocks: Callable[[], Blocks], budget: int, seed: int
) -> tuple[Ints, Ints]:
    """:func:`draw_subset` of a source that is never in memory: the clusters come by in blocks, once.

    Args:
        weights: w, shape (K,).
        sizes: |S_k|, shape (K,).
        blocks: gives the clusters of all images in their order, in blocks of any length, each with the position of
            its first image; asked a second time only should a bound of eight standard deviations fall short.
        budget, seed: as there.

    Returns:
        Positions of the drawn images in ascending order, and their clusters, each of shape (budget,).

    Raises:
        NDSError: the budget is not in 1 .. number of images with a positive probability.
    """
    rates = image_rates(weights, sizes)
    check_drawable(budget, int(sizes[rates > 0].sum()))
    key = stream_key(seed, Purpose.SUBSET)
    candidates, words, cluster = _early_ringers(key, blocks, rates, sizes, budget)
    first = _first_to_ring(words, rates[cluster], budget)
    return candidates[first], cluster[first]


def draw_by_probability(p: Floats, budget: int, seed: int) -> Ints:
    """:func:`draw_subset` from probabilities of single images: the same draw where they are the same.

    Args:
        p: of each image, shape (N,); one of 0 is never drawn.
        budget, seed: as there.

    Raises:
        NDSError: bad probabilities, or a budget beyond the images with a positive one.
    """
    p = normalise_probabilities(p)
    candidates = np.flatnonzero(p > 0)
    check_drawable(budget, len(candidates))
    words = random_words(stream_key(seed, Purpose.SUBSET), 0, len(p))
    return candidates[_first_to_ring(words[candidates], p[candidates], budget)]


def _first_to_ring(words: npt.NDArray[np.uint64], rates: Floats, budget: int) -> Ints:
    """Which ``budget`` of some candidates have clocks that ring first, ascending; words and rates are theirs."""
    # A vanishing rate gives an infinite clock, last of all and settled by position.
    with np.errstate(over="ignore"):
        clocks = -np.log(to_open_unit(words)) / rates
    if len(words) <= budget:
        return np.arange(len(words))
    # Sorting settles ties by position, as a partial sort would not.
    first = np.argpartition(clocks, budget - 1)
    last = clocks[first[budget - 1]]
    sure = np.flatnonzero(clocks < last)
    tied = np.flatnonzero(clocks == last)[: budget - len(sure)]
    return np.sort(np.concatenate([sure, tied]))


def _early_ringers(
    key: npt.NDArray[np.uint64], blocks: Callable[[], Blocks], rates: Floats, sizes: Ints, budget: int
) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
    """Images whose clock rings before a time by which ``budget`` surely rang: position, random word, cluster.

    Images of a cluster share their rate, so that the time is found over K numbers and the
    clocks of most images need no logarithm. The margin is eight standard deviations; should it
    still fall short, the time is doubled: the result of the draw does not depend on it.
    """
    wanted = budget + 8.0 * np.sqrt(budget) + 16.0
    positive = rates > 0
    while True:
        time = _time_of(wanted, rates[positive], sizes[positive])
        floor = np.ones(len(rates) + 1)  # the last element serves cluster -1: never drawn
        floor[:-1][positive] = np.exp(-rates[positive] * time)
        limit = np.minimum(np.ceil(floor * 2.0**64), 2.0**64 - 2048).astype(np.uint64)
        limit[floor >= 1.0] = np.iinfo(np.uint64).max
        found = [_early_of_block(key, start, cluster, limit, floor < 1.0) for start, cluster in blocks()]
        if sum(len(piece[0]) for piece in found) >= budget:
            positions, words, clusters = (np.concatenate(column) for column in zip(*found))
            return positions, words, clusters
        wanted *= 2.0


def _early_of_block(
    key: npt.NDArray[np.uint64],
    start: int,
    cluster: npt.NDArray[np.integer],
    limit: npt.NDArray[np.uint64],
    drawable: npt.NDArray[np.bool_],
) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
    words = random_words(key, start, len(cluster))
    # Few words lie above the lowest of all limits: only they are looked up by their cluster.
    found = np.flatnonzero(words >= limit.min())
    found = found[(words[found] >= limit[cluster[found]]) & drawable[cluster[found]]]
    return found + start, words[found], cluster[found].astype(np.int64)


def _time_of(wanted: float, rates: Floats, sizes: Ints) -> float:
    """The time at which ``wanted`` clocks rang in expectation (infinite when that is too many)."""
    if wanted >= sizes.sum():
        return float("inf")
    # All clocks together ring once per unit of time at most, so that it takes ``wanted`` units or more.
    low, high = 0.0, float(wanted)
    while (sizes * -np.expm1(-rates * high)).sum() < wanted and high < 1e300:
        low, high = high, high * 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if (sizes * -np.expm1(-rates * middle)).sum() < wanted:
            low = middle
        else:
            high = middle
    return high
