"""Which images a process sees, and how: a function of selection, seed and position alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nds_plugin.errors import NDSError
from nds_plugin.selection.sampler import StreamSampler
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batch, Batches, units
from nds_plugin.ssl.pixels import MappedRows

STREAM = ShuffledStream(np.arange(10, 30), 5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MappedRows:
    """Forty images; image i is of grey i."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 16, 16, 3)))
    return MappedRows.of_file(path, np.arange(40))


def batches(rows: MappedRows, first: int, last: int, rank: int = 0, world_size: int = 1) -> Batches:
    return Batches(rows, STREAM, 5, 8, first, last, rank=rank, world_size=world_size, groups=4, keys=True)


def images(batch) -> list[int]:
    return [int(p) for p in batch.pixels[:, 0, 0, 0]]


def test_a_process_sees_what_the_sampler_of_the_stream_gives_it(rows: MappedRows) -> None:
    for rank in range(2):
        sampler = StreamSampler(STREAM, rank=rank, world_size=2, start=16)
        expected = list(itertools.islice(sampler, 4))
        assert sorted(images(batches(rows, 2, 3, rank, 2).batch(2))) == sorted(expected)


def test_only_the_selection_is_seen(rows: MappedRows) -> None:
    seen = {i for batch in batches(rows, 0, 20) for i in images(batch)}
    assert seen == set(range(10, 30))


def same(one: Batch, two: Batch) -> bool:
    """Whether two batches are the same, those of the key network included."""
    assert one.other is not None
    assert two.other is not None
    pairs = [(one.own, two.own), (one.keys_at, two.keys_at)]
    for a, b in ((one, two), (one.other, two.other)):
        pairs += [(a.pixels, b.pixels), (a.units, b.units)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_any_number_of_processes_sees_the_same_groups_views_and_keys(rows: MappedRows) -> None:
    alone = batches(rows, 0, 3).batch(1)
    for world_size in (2, 4):
        parts = [batches(rows, 0, 3, rank, world_size).batch(1) for rank in range(world_size)]
        groups = {frozenset(chunk.tolist()) for part in parts for chunk in part.own.chunk(4 // world_size)}
        assert groups == {frozenset(chunk.tolist()) for chunk in alone.own.chunk(4)}
        by_place = {int(p): u for part in parts for p, u in zip(part.own, part.units, strict=True)}
        assert all(torch.equal(by_place[int(p)], u) for p, u in zip(alone.own, alone.units, strict=True))
        keys = torch.cat([part.other.units for part in parts])[parts[0].keys_at]
        assert torch.equal(keys, alone.other.units[alone.keys_at])


def test_a_later_start_gives_the_same_batches(rows: MappedRows) -> None:
    unbroken, later = list(batches(rows, 0, 5)), list(batches(rows, 3, 5))
    assert all(same(a, b) for a, b in zip(unbroken[3:], later, strict=True))
    assert not same(unbroken[2], unbroken[3])


@pytest.mark.slow
def test_loader_workers_change_nothing(rows: MappedRows) -> None:
    with_workers = list(batches(rows, 1, 6).loader(2, torch.device("cpu")))
    assert len(with_workers) == 5
    assert all(same(a, b) for a, b in zip(with_workers, batches(rows, 1, 6), strict=True))


def test_numbers_of_a_position_do_not_depend_on_where_they_are_asked_for() -> None:
    assert np.array_equal(units(3, 0, 50)[20:30], units(3, 20, 30))
    assert not np.array_equal(units(4, 20, 30), units(3, 20, 30))


@pytest.mark.parametrize(
    ("groups", "world_size", "told"), [(3, 1, "3 groups"), (4, 3, "3 processes"), (8, 1, "at least 2")]
)
def test_groups_that_do_not_fit_are_refused(
    rows: MappedRows, groups: int, world_size: int, told: str
) -> None:
    with pytest.raises(NDSError, match=told):
        Batches(rows, STREAM, 5, 8, 0, 1, groups=groups, world_size=world_size)


def test_rows_of_several_files_are_those_of_each(tmp_path) -> None:
    for name, grey in (("a", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", np.full((3, 4, 4, 3), grey, dtype=np.uint8))
    files = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    rows = MappedRows(files, np.array([0, 1, 0, 1]), np.array([0, 1, 2, 0]))
    assert rows.rows(np.array([3, 0, 1]))[:, 0, 0, 0].tolist() == [2, 1, 2]
