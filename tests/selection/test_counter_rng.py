from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nds_plugin.errors import NDSError
from nds_plugin.selection.counter_rng import Purpose, stream_key

Use = tuple[int, Purpose, tuple[int, ...]]

# Numbers at which words of 32 bits begin and end, beside any others: those are where keys could meet.
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 3 * 2**32 + 7, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)


@st.composite
def uses(draw: st.DrawFn) -> Use:
    purpose = draw(st.sampled_from(Purpose))
    return draw(NUMBERS), purpose, tuple(draw(NUMBERS) for _ in purpose.sub_keys)


@settings(max_examples=1000, deadline=None)
@given(uses(), uses())
def test_two_uses_of_seeds_share_a_key_only_if_they_are_the_same(one: Use, other: Use) -> None:
    keys = [stream_key(seed, purpose, *sub_keys).tolist() for seed, purpose, sub_keys in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_no_small_numbers_share_a_key() -> None:
    small = [0, 1, 2, 3, 7, 9, 2**32, 2**32 + 1, 2 * 2**32, 9 * 2**32 + 7]
    found = set()
    count = 0
    for purpose in Purpose:
        grids = np.meshgrid(*[np.arange(len(small))] * (1 + len(purpose.sub_keys)))
        for places in zip(*(grid.ravel().tolist() for grid in grids)):
            seed, *sub_keys = (small[place] for place in places)
            found.add(tuple(stream_key(seed, purpose, *sub_keys).tolist()))
            count += 1
    assert len(found) == count > 2000


def test_a_purpose_takes_its_own_sub_keys_and_no_others() -> None:
    with pytest.raises(TypeError, match=r"WEIGHTED takes the sub-keys \(\), got \(0,\)"):
        stream_key(7, Purpose.WEIGHTED, 0)
    with pytest.raises(TypeError, match=r"SHUFFLED takes the sub-keys \('epoch',\), got \(\)"):
        stream_key(7, Purpose.SHUFFLED)


@pytest.mark.parametrize("seed", [-1, 1.0, "1", 2**64])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(NDSError, match="seed must be an integer of 0 or more, below 2\\^64"):
        stream_key(seed, Purpose.SUBSET)  # type: ignore[arg-type]


def test_keys_are_those_of_earlier_releases() -> None:
    for seed in (0, 7, 2**32 - 1):
        for purpose, *sub_keys in (
            [Purpose.SUBSET],
            [Purpose.WEIGHTED],
            [Purpose.SHUFFLED, 5],
            [Purpose.BATCHES],
            [Purpose.REDRAW, 12, 0],
            [Purpose.AUGMENTATION, 12],
            [Purpose.ITERATION, 3, 1],
            [Purpose.SINGLE],
        ):
            earlier = np.random.SeedSequence([seed, int(purpose), *sub_keys]).generate_state(2, np.uint64)
            assert stream_key(seed, purpose, *sub_keys).tolist() == earlier.tolist()
