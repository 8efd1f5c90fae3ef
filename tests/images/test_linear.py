"""Linear classifiers on frozen features."""

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from nds_plugin.images.linear import fit_linear


def fitted(threads: int) -> npt.NDArray[np.float64]:
    """Weights and biases of a classifier that is fitted where torch and BLAS have so many threads, shape (16, 257)."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 16, 1500)
    features = rng.normal(size=(1500, 256)) + 0.3 * rng.normal(size=(16, 256))[targets]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            found = fit_linear(features.astype(np.float32), targets, 16)
            assert torch.get_num_threads() == threads, "the caller's threads are given back"
    finally:
        torch.set_num_threads(before)
    return np.concatenate([found.weight, found.bias[:, None]], axis=1)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    alone = fitted(1)
    for threads in (2, 4):
        np.testing.assert_array_equal(fitted(threads), alone)
