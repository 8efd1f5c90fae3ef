"""MoCo's step against a formula written by hand, and against another implementation."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.augment import MOCO, WORDS, augment
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.moco import MoCo, contrast
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig

CONFIG = PretrainConfig(size=16, batch_size=8, queue=24, dim=6, bn_groups=2, temperature=0.2, ema=0.9)
NETWORK = NetworkConfig(width=4, stem="half")


def vectors(count: int, seed: int, dim: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> MappedRows:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8))
    return MappedRows.of_file(path, np.arange(40))


def batches(rows: MappedRows, last: int = 3) -> Batches:
    return Batches(rows, ShuffledStream(np.arange(40), 1), 1, 8, 0, last, groups=2, keys=True)


def test_the_loss_is_that_of_the_formula() -> None:
    queries, keys, queue = vectors(5, 0), vectors(5, 1), vectors(7, 2)
    terms = []
    for q, positive in zip(queries.tolist(), keys.tolist()):
        near = math.exp(sum(a * b for a, b in zip(q, positive)) / 0.3)
        far = sum(math.exp(sum(a * b for a, b in zip(q, k)) / 0.3) for k in queue.tolist())
        terms.append(-math.log(near / (near + far)))
    assert contrast(queries, keys, queue, 0.3)[0].item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_the_accuracy_is_the_share_of_queries_whose_own_key_is_the_nearest() -> None:
    queries, queue = torch.eye(6)[:4], torch.eye(6)[3:]
    assert contrast(queries, queries, queue[1:], 0.3)[1].item() == 1.0
    keys = queries.clone()
    keys[3] = F.normalize(torch.tensor([1.0, 0, 0, 1, 0, 0]), dim=0)  # the queue holds the query itself
    assert contrast(queries, keys, queue, 0.3)[1].item() == 0.75


def test_the_loss_is_that_of_lightly() -> None:
    loss = pytest.importorskip("lightly.loss.ntx_ent_loss", reason="pip install --no-deps lightly")
    theirs = loss.NTXentLoss(temperature=0.07, memory_bank_size=(32, 6))
    queries, keys, queue = vectors(5, 0).requires_grad_(), vectors(5, 1), vectors(32, 2)
    bank = theirs.memory_bank
    bank(torch.randn(1, 6), update=True)  # lets it make its bank
    bank.bank.copy_(queue.T if bank.bank.shape == (6, 32) else queue)
    assert contrast(queries, keys, queue, 0.07)[0].item() == pytest.approx(
        theirs(queries, keys).item(), rel=1e-5
    )


def test_a_step_is_that_of_the_two_networks_on_two_views_of_each_image(rows: MappedRows) -> None:
    learner, batch = MoCo(NETWORK, CONFIG, 3, 2), batches(rows).batch(0)
    assert batch.other is not None
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():  # a new learner's key network is its query network: nothing would tell them apart
        for key in learner.key.parameters():
            key.add_(0.5 * torch.randn(key.shape, generator=noise))
    before = copy.deepcopy(learner)
    loss = learner(batch)
    with torch.no_grad():
        for key, query in zip(before.key.parameters(), before.query.parameters(), strict=True):
            key.copy_(0.9 * key + 0.1 * query)  # first the momentum, then the keys
        q = F.normalize(before.query(augment(batch.pixels, batch.units[:, :WORDS], 16, MOCO[1])))
        k = F.normalize(before.key(augment(batch.other.pixels, batch.other.units[:, WORDS:], 16, MOCO[1])))
    order = [
        next(j for j, other in enumerate(batch.other.units) if torch.equal(other, own)) for own in batch.units
    ]
    expected, accuracy = contrast(q, k[order], before.queue, 0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert learner.accuracy.item() == accuracy.item()
    assert sorted(batch.own.tolist()) == list(range(8))
    assert torch.allclose(learner.queue[:8][batch.own], k[order], atol=1e-5)  # in the order of the stream
    assert torch.equal(learner.queue[8:], before.queue[8:])


def test_the_queue_takes_the_keys_in_the_order_of_the_stream_and_forgets_the_oldest(rows: MappedRows) -> None:
    learner = MoCo(NETWORK, CONFIG, 3, 2)
    start = learner.queue.clone()
    learner(batches(rows).batch(0))
    assert int(learner.place) == 8
    assert torch.equal(learner.queue[8:], start[8:])
    first = learner.queue[:8].clone()
    assert torch.allclose(first.norm(dim=1), torch.ones(8), atol=1e-5)
    for i in range(1, 4):
        learner(batches(rows, 4).batch(i))
    assert int(learner.place) == 8
    assert not torch.equal(learner.queue[:8], first)


def test_the_key_network_follows_by_its_momentum_and_has_no_gradient(rows: MappedRows) -> None:
    learner = MoCo(NETWORK, CONFIG, 3, 2)
    with torch.no_grad():
        learner.query.conv1.weight += 1
    before = learner.key.conv1.weight.clone()
    learner(batches(rows).batch(0)).backward()
    expected = 0.9 * before + 0.1 * learner.query.conv1.weight
    assert torch.allclose(learner.key.conv1.weight, expected, atol=1e-6)
    assert all(p.grad is None for p in learner.key.parameters())
    assert all(p.grad is not None for p in learner.query.parameters())


def test_queries_and_keys_of_an_image_lie_in_other_groups_of_the_batch_norms(rows: MappedRows) -> None:
    seen = set()
    for iteration in range(3):
        batch = batches(rows).batch(iteration)
        assert batch.other is not None
        for place, own in enumerate(batch.units):
            other = next(j for j, u in enumerate(batch.other.units) if torch.equal(u, own))
            seen.add((place // 4, other // 4))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_version_2_has_a_hidden_layer_in_its_head_that_does_not_leave_with_the_trunk() -> None:
    from nds_plugin.ssl.network import trunk

    learner = MoCo(NETWORK, PretrainConfig(size=16, batch_size=8, queue=24, dim=6, version=2), 3, 1)
    assert any(name.startswith("fc.2.") for name in learner.query.state_dict())
    assert set(trunk(learner.trunk)) == set(trunk(MoCo(NETWORK, CONFIG, 3, 1).trunk))
