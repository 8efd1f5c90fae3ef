"""The linear layer of task-supervised scores."""

from __future__ import annotations

import numpy as np
import torch

from nds_plugin.experts.supervised import cross_validate


def test_the_number_of_threads_changes_no_bit_and_stays_what_it_was() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 300)
    features = np.abs(rng.standard_normal((300, 512))) + (np.arange(512) % 12 == labels[:, None])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(cross_validate(features, labels, 2, 0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)
