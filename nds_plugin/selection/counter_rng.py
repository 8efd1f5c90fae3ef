"""Random words addressed by position: element n costs the same wherever n is.

Built on numpy's Philox bit generator (Salmon et al., SC 2011), whose raw output is the same in
every numpy release; the distributions of ``numpy.random.Generator`` carry no such promise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError

Words = npt.NDArray[np.uint64]
_WORDS_PER_COUNT = 4


def stream_key(seed: int, *purpose: int) -> Words:
    """A 128-bit Philox key, shape (2,), for one use of a seed.

    Raises:
        NDSError: the seed is negative or not an integer.
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise NDSError(f"seed must be an integer of 0 or more, got {seed!r}.")
    state = np.random.SeedSequence([int(seed), *purpose]).generate_state(2, np.uint64)
    return state.astype(np.uint64)


def random_words(key: Words, start: int, count: int) -> Words:
    """Words ``start .. start + count`` of the stream that ``key`` names, shape (count,)."""
    first, skip = divmod(start, _WORDS_PER_COUNT)
    generator = np.random.Philox(key=key, counter=first)
    return np.asarray(generator.random_raw(count + skip)[skip:])


def to_unit(words: Words) -> npt.NDArray[np.float64]:
    """Map words to [0, 1), 53 bits each."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def to_open_unit(words: Words) -> npt.NDArray[np.float64]:
    """Map words to (0, 1), so that a logarithm is finite."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
