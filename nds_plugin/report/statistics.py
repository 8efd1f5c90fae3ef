"""Means over seeds, and differences to a baseline paired over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` runs.

    Attributes:
        mean: None where there is no run.
        spread: standard deviation over the runs (n - 1); None for fewer than two.
        n: number of runs.
    """

    mean: float | None
    spread: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean difference of ``n`` pairs, with the interval of Student's t distribution.

    Attributes:
        mean: None where there is no pair.
        low, high: of the confidence interval; None for fewer than two pairs.
        n: number of pairs.
        error: standard error of the mean; None for fewer than two pairs.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    error: float | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard deviation."""
    n = len(values)
    if not n:
        return Estimate(None, None, 0)
    mean = math.fsum(values) / n
    return Estimate(mean, _deviation(values, mean) if n > 1 else None, n)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference:
    """Mean of ``values - baseline`` over the seeds that both have, with its confidence interval.

    A seed decides selection, initialisation and order of both runs, so that what it does to both
    cancels.

    Args:
        values, baseline: one number per seed.
        confidence: of the interval.
    """
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    n = len(differences)
    if not n:
        return Difference(None, None, None, 0)
    mean = math.fsum(differences) / n
    if n == 1:
        return Difference(mean, None, None, 1)
    error = _deviation(differences, mean) / math.sqrt(n)
    half = t_quantile((1 + confidence) / 2, n - 1) * error
    return Difference(mean, mean - half, mean + half, n, error)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats would take seconds to import

    return float(stdtrit(degrees, probability))


def seeds_needed(room: float, deviation: float, errors: float = 3.0, at_least: int = 3) -> int | None:
    """Number of seeds for which ``room`` is ``errors`` standard errors of a paired difference.

    Args:
        room: the difference that is to be seen.
        deviation: standard deviation of the paired difference of one seed.

    Returns:
        None where the room is not above 0.
    """
    if room <= 0:
        return None
    needed = (errors * deviation / room) ** 2
    return max(at_least, math.ceil(needed - 1e-9))  # 4.0000000001 is 4


def _deviation(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
