"""A regularised linear classifier on frozen features: multinomial logistic regression."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

L2 = 1e-2  # weight of the squared weights beside the mean cross-entropy; our choice
MAX_ITERATIONS = 100
Array = npt.NDArray[np.float64]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread computes meanwhile: the order of a sum over threads would change the last bits."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class LinearClassifier:
    """Logits x W^T + b of raw features; the standardisation of training is part of W and b.

    Attributes:
        weight: shape (C, D).
        bias: shape (C,).
    """

    weight: Array
    bias: Array

    @_one_thread()
    def log_posterior(self, features: npt.NDArray[np.floating]) -> Array:
        """Log-probabilities of the classes, shape (n, C), of features (n, D)."""
        logits = np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias
        highest = logits.max(axis=1, keepdims=True)
        return np.asarray(logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True)))


@_one_thread()
def fit_linear(
    features: npt.NDArray[np.floating],
    targets: npt.NDArray[np.int64],
    classes: int,
    *,
    l2: float = L2,
    balanced: bool = False,
) -> LinearClassifier:
    """Fit by L-BFGS on standardised features.

    The same bits on any number of threads; another order of the rows may change the last ones.

    Args:
        features: shape (n, D).
        targets: class of each row, 0 .. classes - 1, shape (n,).
        classes: C.
        l2: strength of the regularisation, 0 or more.
        balanced: weigh the rows so that all classes that occur have the same mass.
    """
    points = np.asarray(features, dtype=np.float64)
    mean, scale = points.mean(axis=0), points.std(axis=0) + 1e-6
    x, y = torch.from_numpy((points - mean) / scale), torch.from_numpy(targets)
    counts = torch.bincount(y, minlength=classes).clamp(min=1).double()
    mass = 1.0 / counts[y] if balanced else torch.ones(len(y), dtype=torch.float64)
    mass = mass / mass.sum()
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The bias is held a little too: a class that is missing here must not get log 0.
        value = (F.cross_entropy(F.linear(x, weight, bias), y, reduction="none") * mass).sum()
        value = value + l2 * (weight.square().sum() + 1e-2 * bias.square().sum())
        value.backward()
        return value

    optimizer.step(loss)
    w = weight.detach().numpy() / scale
    return LinearClassifier(w, bias.detach().numpy() - w @ mean)
