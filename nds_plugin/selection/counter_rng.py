"""Random words addressed by position: element n costs the same wherever n is.

Built on numpy's Philox bit generator (Salmon et al., SC 2011), whose raw output is the same in
every numpy release; the distributions of ``numpy.random.Generator`` carry no such promise.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError

Words = npt.NDArray[np.uint64]
_WORDS_PER_COUNT = 4


@enum.unique
class Purpose(enum.IntEnum):
    """What a stream of random words is for: a number that no other use of a seed has, and its sub-keys.

    A new purpose takes the next free number; a number that was used is never given away again, since the
    draws of earlier releases hang on it.
    """

    SUBSET = 1, ()
    WEIGHTED = 2, ()
    SHUFFLED = 3, ("epoch",)
    BATCHES = 4, ()
    REDRAW = 5, ("position", "attempt")
    AUGMENTATION = 6, ("position",)
    ITERATION = 7, ("iteration", "rank")
    SINGLE = 8, ()
    MOSAIC = 9, ("cluster",)
    VIEWS = 10, ()

    sub_keys: Sequence[str]

    def __new__(cls, number: int, sub_keys: Sequence[str]) -> Purpose:
        purpose = int.__new__(cls, number)
        purpose._value_ = number
        purpose.sub_keys = sub_keys
        return purpose


def stream_key(seed: int, purpose: Purpose, *sub_keys: int) -> Words:
    """A 128-bit Philox key, shape (2,), for one use of a seed; no two uses share one.

    Args:
        seed: 0 to 2^64 - 1.
        purpose: the use.
        sub_keys: those that the purpose names, each 0 to 2^64 - 1.

    Raises:
        NDSError: the seed is out of range or not an integer.
        TypeError: other sub-keys than the purpose has.
    """
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise NDSError(f"seed must be an integer of 0 or more, below 2^64, got {seed!r}.")
    if len(sub_keys) != len(purpose.sub_keys):
        raise TypeError(f"{purpose.name} takes the sub-keys {purpose.sub_keys}, got {sub_keys}.")
    # SeedSequence cuts numbers into words and fills up with zeros, so that a list may look like another one: here
    # every number has its place among the words, its upper half too where there is one.
    numbers = [int(seed), int(purpose), *map(int, sub_keys), *[0] * (_MOST_SUB_KEYS - len(sub_keys))]
    words = [number & 0xFFFFFFFF for number in numbers]
    upper = [number >> 32 for number in numbers]
    state = np.random.SeedSequence(words + upper if any(upper) else words).generate_state(2, np.uint64)
    return state.astype(np.uint64)


_MOST_SUB_KEYS = max(len(purpose.sub_keys) for purpose in Purpose)


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
