"""Linear classifiers on frozen features."""

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from nds_plugin.images.linear import fit_linear


def fitted(threads: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Weights, biases and log-probabilities of a classifier that is fitted where torch and BLAS have so many threads."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 16, 1500)
    features = rng.normal(size=(1500, 256)) + 0.3 * rng.normal(size=(16, 256))[targets]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            found = fit_linear(features.astype(np.float32), targets, 16)
            log_p = found.log_posterior(features)
            assert torch.get_num_threads() == threads, "the caller's threads are given back"
    finally:
        torch.set_num_threads(before)
    return found.weight, found.bias, log_p


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    alone = fitted(1)
    for threads in (2, 4):
        for many, one in zip(fitted(threads), alone):
            np.testing.assert_array_equal(many, one)
