"""Building networks and running them so that they repeat."""

from __future__ import annotations

import pytest
import torch

from nds_plugin.images.networks import build_network, repeatable


def test_float32_is_not_cut_to_tf32_where_runs_repeat() -> None:
    before = torch.backends.cudnn.allow_tf32
    with repeatable():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_building_a_network_leaves_all_random_states_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    # What torch.manual_seed calls, with a GPU or without one.
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("seeds the GPUs"))
    before = torch.get_rng_state()
    build_network(4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
