"""Laws of the endless streams and of the sampler over them."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from nds_plugin.errors import NDSError
from nds_plugin.selection.placed import PlacedSelection, draw_scalars, segmented
from nds_plugin.selection.sampler import PositionedSampler, StreamSampler
from nds_plugin.selection.streams import (
    AspectGroupedStream,
    IndexStream,
    SegmentedStream,
    ShuffledStream,
    WeightedStream,
    is_wide,
    redraw,
)
from nds_plugin.selection.weights import image_probabilities

CLUSTER = np.array([0] * 5 + [1] * 30 + [-1] * 3 + [2] * 12 + [3] * 4)
WEIGHTS = np.array([0.4, 0.4, 0.2, 0.0])
GROUPS = np.arange(len(CLUSTER)) % 3 == 0


def _streams() -> dict[str, IndexStream]:
    weighted = WeightedStream(WEIGHTS, CLUSTER, seed=4)
    return {
        "weighted": weighted,
        "shuffled": ShuffledStream(np.flatnonzero(CLUSTER >= 0), seed=4),
        "segmented": SegmentedStream([(0, weighted), (96, WeightedStream(WEIGHTS[::-1], CLUSTER, 4))]),
        "grouped": AspectGroupedStream(weighted, GROUPS, batch_size=4, seed=4, batches=8),
    }


every_stream = pytest.mark.parametrize("stream", _streams().values(), ids=_streams().keys())


@every_stream
@pytest.mark.parametrize("cut", [0, 1, 17, 63, 64, 200])
def test_the_stream_from_n_is_the_tail_of_the_stream(stream: IndexStream, cut: int) -> None:
    whole = stream.draw(0, 300)
    assert np.array_equal(stream.draw(cut, 300), whole[cut:])
    assert np.array_equal(stream.draw(0, cut), whole[:cut])


@every_stream
def test_a_pickled_stream_is_the_same_stream(stream: IndexStream) -> None:
    assert np.array_equal(pickle.loads(pickle.dumps(stream)).draw(50, 90), stream.draw(50, 90))


@every_stream
def test_images_of_no_cluster_are_never_drawn(stream: IndexStream) -> None:
    assert (CLUSTER[stream.draw(0, 5000)] >= 0).all()


def test_images_of_probability_zero_are_never_drawn() -> None:
    drawn = WeightedStream(WEIGHTS, CLUSTER, 0).draw(0, 20_000)
    assert (CLUSTER[drawn] != 3).all()


def test_frequencies_follow_p() -> None:
    """Chi-square over the images that can be drawn; 47 of them, 46 degrees of freedom."""
    p = image_probabilities(WEIGHTS, CLUSTER)
    draws = 200_000
    for stream in (
        WeightedStream(WEIGHTS, CLUSTER, 11),
        AspectGroupedStream(WeightedStream(WEIGHTS, CLUSTER, 11), GROUPS, 8, 0),
    ):
        counts = np.bincount(stream.draw(0, draws), minlength=len(CLUSTER))
        possible = p > 0
        chi_square = ((counts - draws * p)[possible] ** 2 / (draws * p[possible])).sum()
        assert chi_square < 81.4  # 0.1 % quantile
        assert counts[~possible].sum() == 0


def test_neighbouring_draws_are_independent() -> None:
    """Chi-square of pairs of clusters against the product of their weights."""
    clusters = CLUSTER[WeightedStream(WEIGHTS, CLUSTER, 5).draw(0, 100_000)]
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (clusters[0::2], clusters[1::2]), 1)
    expected = 50_000 * np.outer(WEIGHTS[:3], WEIGHTS[:3])
    assert ((pairs - expected) ** 2 / expected).sum() < 26.1  # 0.1 % quantile, 8 degrees of freedom


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_an_epoch_holds_every_image_once_and_epochs_differ(size: int) -> None:
    stream = ShuffledStream(np.arange(size), seed=2)
    first, second = stream.draw(0, size), stream.draw(size, 2 * size)
    assert sorted(first) == sorted(second) == list(range(size))
    if size > 7:
        assert not np.array_equal(first, second)


def test_every_image_is_as_often_first_of_an_epoch() -> None:
    size, epochs = 7, 3500
    stream = ShuffledStream(np.arange(size), seed=0)
    first = stream.draw(0, size * epochs)[::size]
    counts = np.bincount(first, minlength=size)
    assert ((counts - 500) ** 2 / 500).sum() < 22.5  # 0.1 % quantile, 6 degrees of freedom


def test_seeds_give_different_streams() -> None:
    a, b = (WeightedStream(WEIGHTS, CLUSTER, seed).draw(0, 100) for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_what_was_drawn_before_an_update_of_the_weights_stays() -> None:
    before = WeightedStream(WEIGHTS, CLUSTER, 4)
    after = WeightedStream(np.array([0.0, 0.0, 0.0, 1.0]), CLUSTER, 4)
    stream = SegmentedStream([(0, before), (40, after)])
    assert np.array_equal(stream.draw(0, 40), before.draw(0, 40))
    assert (CLUSTER[stream.draw(40, 400)] == 3).all()


def test_segments_must_begin_at_zero() -> None:
    with pytest.raises(NDSError, match=r"begin at 0 and increase, got \[5\]"):
        SegmentedStream([(5, WeightedStream(WEIGHTS, CLUSTER, 0))])


def test_a_grouped_batch_holds_one_orientation_but_for_one_batch_a_window() -> None:
    grouped = _streams()["grouped"]
    plain = _streams()["weighted"]
    for window in range(5):
        drawn = grouped.draw(window * 32, (window + 1) * 32)
        mixed = [len(set(GROUPS[batch].tolist())) > 1 for batch in drawn.reshape(8, 4)]
        assert sum(mixed) <= 1
        assert sorted(drawn) == sorted(plain.draw(window * 32, (window + 1) * 32))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_stream_without_overlap(world_size: int) -> None:
    stream = _streams()["weighted"]
    share = 120 // world_size
    parts = [
        list(itertools.islice(StreamSampler(stream, rank=r, world_size=world_size), share))
        for r in range(world_size)
    ]
    together = [index for step in zip(*parts) for index in step]
    assert together == stream.draw(0, 120).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_resumed_run_on_another_number_of_ranks_goes_on_with_the_draw(world_size: int) -> None:
    stream = _streams()["grouped"]
    parts = [
        list(itertools.islice(StreamSampler(stream, rank=r, world_size=world_size, start=66), 20))
        for r in range(world_size)
    ]
    together = [index for step in zip(*parts) for index in step]
    assert together == stream.draw(66, 66 + 20 * world_size).tolist()


def test_iterating_twice_gives_the_same() -> None:
    sampler = StreamSampler(_streams()["weighted"], start=3)
    first, second = (list(itertools.islice(sampler, 3000)) for _ in range(2))
    assert first == second


class _Dealt(IterableDataset):
    """How Detectron2 v0.6 deals a sampler to loader workers: single elements, worker w from the w-th on."""

    def __init__(self, sampler: StreamSampler) -> None:
        self.sampler = sampler

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return itertools.islice(iter(self.sampler), first, 96, step)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_batches_do_not_depend_on_workers_where_elements_are_dealt_singly(num_workers: int) -> None:
    stream = _streams()["weighted"]
    loader = DataLoader(
        _Dealt(StreamSampler(stream, interleave=3)), batch_size=3, num_workers=num_workers, collate_fn=list
    )
    assert list(loader) == stream.draw(0, 96).reshape(-1, 3).tolist()


def test_positions_are_those_of_the_shared_stream() -> None:
    sampler = PositionedSampler(_streams()["weighted"], rank=1, world_size=3, start=9)
    drawn = list(itertools.islice(sampler, 5))
    assert [position for position, _ in drawn] == [10, 13, 16, 19, 22]
    assert [index for _, index in drawn] == _streams()["weighted"].draw(9, 24)[1::3].tolist()


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(NDSError, match="rank must be 0 to world_size - 1 = 1, got 2"):
        StreamSampler(_streams()["weighted"], rank=2, world_size=2)


def test_a_start_between_two_iterations_is_refused() -> None:
    with pytest.raises(NDSError, match="start must be a multiple of the world size 2, got 3"):
        StreamSampler(_streams()["weighted"], rank=0, world_size=2, start=3)


def test_a_seek_to_a_billion_draws_gives_valid_images() -> None:
    drawn = _streams()["weighted"].draw(10**9, 10**9 + 5)
    assert ((drawn >= 0) & (drawn < len(CLUSTER))).all()


def test_the_stream_is_pinned_across_releases_of_numpy() -> None:
    assert WeightedStream(WEIGHTS, CLUSTER, 0).draw(0, 8).tolist() == PINNED["weighted"]
    assert ShuffledStream(np.arange(20), 0).draw(0, 8).tolist() == PINNED["shuffled"]


def test_a_replacement_is_decided_by_its_arguments_and_is_uniform() -> None:
    members = np.array([3, 5, 8, 9])
    assert redraw(members, 1, 7, 0) == redraw(members, 1, 7, 0)
    drawn = [redraw(members, 0, position, 0) for position in range(2000)]
    counts = np.bincount(drawn, minlength=10)[members]
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # 0.1 % quantile, 3 degrees of freedom


def test_an_empty_subset_is_refused() -> None:
    with pytest.raises(NDSError, match="the subset is empty"):
        ShuffledStream(np.zeros(0, dtype=np.int64), 0)


PINNED = {"weighted": [48, 38, 3, 0, 1, 44, 2, 19], "shuffled": [5, 0, 8, 3, 9, 18, 12, 2]}


def test_new_weights_change_nothing_of_what_was_drawn_before_them_in_groups_either() -> None:
    placed = PlacedSelection("stream", WEIGHTS, CLUSTER.astype(np.int32))
    other = WEIGHTS[[1, 0, 2, 3]] * [0.5, 1.5, 1, 1]
    first, grouping = placed.stream(4), (GROUPS, 4)
    before = segmented(first, placed, [], 4, grouping)
    changed = segmented(first, placed, [(70, other)], 4, grouping)
    assert np.array_equal(changed.draw(0, 70), before.draw(0, 70))
    later = AspectGroupedStream(WeightedStream(other, CLUSTER, 4), GROUPS, 4, 4)
    assert np.array_equal(changed.draw(70, 300), later.draw(70, 300))
    assert np.array_equal(segmented(first, None, [(70, other)], 4).draw(0, 300), first.draw(0, 300))


def test_an_image_of_unknown_size_counts_as_wide() -> None:
    assert is_wide(np.array([[4, 3], [3, 4], [3, 3], [0, 0]])).tolist() == [1, 0, 0, 1]


def test_the_scalars_of_a_draw_are_shares_and_their_distance() -> None:
    found = draw_scalars(np.array([3, 1]), np.array([2.0, 2.0]), 5)
    assert found == {
        "nds/unreadable_images": 5.0,
        "nds/draw_distance": 0.25,
        "nds/drawn/cluster_0": 0.75,
        "nds/expected/cluster_0": 0.5,
        "nds/drawn/cluster_1": 0.25,
        "nds/expected/cluster_1": 0.5,
    }
