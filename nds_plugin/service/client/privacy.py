"""Less than the exact scores: noise and rounding, put on z before it leaves the machine.

The noise is drawn once for given scores and steps up to the last noise: it comes from a secret of this user, the
scores and these steps, so that the same scores always leave with the same noise, rounded afterwards or not. Fresh
noise for each search could be averaged away by whoever collects the searches. Other steps give independent noise:
that is a further release of the scores, and the epsilons of all releases add up.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nds_plugin.errors import NDSError, unknown_name

STEPS = ("gaussian", "laplace", "round")
FIXED_TASKS = ("rotation",)  # whose classifiers learn nothing from the client's images
DELTA = 1e-5  # of the statement about Gaussian noise
_FURTHER = "each other noise on these scores is a further release, and the epsilons add up"
_MAX_DECIMALS = 12


@dataclass(frozen=True)
class Step:
    """One of ``STEPS`` and its amount: standard deviation, scale of the Laplace noise, or decimals."""

    name: str
    amount: float

    def __str__(self) -> str:
        return f"{self.name}:{self.amount if self.is_noise else int(self.amount)}"

    @property
    def is_noise(self) -> bool:
        """Whether it adds noise, which alone can promise anything."""
        return self.name != "round"


def parse_privacy(text: str) -> tuple[Step, ...]:
    """Steps from text such as ``laplace:0.01,round:2``, in that order; empty for none.

    Raises:
        NDSError: an unknown step or an amount that makes no sense.
    """
    steps = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = part.partition(":")
        if name not in STEPS:
            raise unknown_name("privacy step", name, STEPS)
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if name == "round":
            if value not in range(_MAX_DECIMALS + 1):
                raise NDSError(
                    f"privacy {part!r}: expected decimals from 0 to {_MAX_DECIMALS}, as in round:2."
                )
        elif not 0 < value < math.inf:
            raise NDSError(f"privacy {part!r}: expected an amount of more than 0, as in {name}:0.01.")
        steps.append(Step(name, value))
    return tuple(steps)


def apply_privacy(z: Sequence[float], steps: Sequence[Step], key: bytes) -> list[float]:
    """The scores after all steps, shape (K,).

    Args:
        z: the scores.
        steps: of :func:`parse_privacy`.
        key: a secret; it alone decides the noise, together with z and the steps up to the last noise. These count
            with every digit: releases whose noise is the same but for its scale could be solved for z.
    """
    values = np.asarray(z, dtype=np.float64)
    last = max((place for place, step in enumerate(steps, 1) if step.is_noise), default=0)
    content = json.dumps([values.tolist(), [str(step) for step in steps[:last]]])
    seed = hmac.new(key, content.encode(), hashlib.sha256).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
    for step in steps:
        if step.name == "round":
            values = np.round(values, int(step.amount))
        elif step.name == "gaussian":
            values = values + rng.normal(0.0, step.amount, len(values))
        else:
            values = values + rng.laplace(0.0, step.amount, len(values))
    return [float(value) + 0.0 for value in values]


def statement(steps: Sequence[Step], clusters: int, images: int, metric: str, task: str) -> str:
    """What the noise guarantees, in a sentence.

    Exchanging one of n images moves an accuracy by at most 1/n, and a relative one by 2/n; K scores move by
    K times that in the L1 norm and sqrt(K) times in the L2 norm. Scores that are rounded to D decimals before the
    noise may lie another 10^-D apart. The guarantees are those of the Laplace mechanism and of the classical Gaussian
    mechanism (Dwork and Roth, 2014, sections 3.3 and A.1).

    Args:
        images: scored images; 0 if unknown.
        metric, task: of the scores.
    """
    place = next((place for place, step in enumerate(steps) if step.is_noise), None)
    if place is None:
        return "no noise: no guarantee, only fewer digits" if steps else "none: the exact scores"
    if "accuracy" not in metric:
        return f"noise without a guarantee: one image may move {metric} without bound"
    if task not in FIXED_TASKS:
        return (
            f"noise without a guarantee: experts of the task {task} learn from your images, so that one image may "
            "change how all others are classified"
        )
    if images < 1:
        return "noise; what it guarantees depends on the number of scored images, which is not known"
    noise = steps[place]
    moved = (2.0 if metric.startswith("relative") else 1.0) / images
    moved += sum(10.0**-step.amount for step in steps[:place])
    if noise.name == "laplace":
        epsilon = clusters * moved / noise.amount
        return f"differentially private for one image of {images}: epsilon {epsilon:.3g}; {_FURTHER}"
    epsilon = math.sqrt(clusters) * moved * math.sqrt(2 * math.log(1.25 / DELTA)) / noise.amount
    if epsilon >= 1:
        return f"too little noise for a guarantee (for one image of {images}, the bound holds below epsilon 1 only)"
    return f"differentially private for one image of {images}: epsilon {epsilon:.3g}, delta {DELTA:g}; {_FURTHER}"
