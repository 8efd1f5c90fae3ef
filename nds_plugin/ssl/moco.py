"""MoCo (He et al., 2020; version 2: Chen et al., 2020): queries contrast with keys of a slow network, kept in a queue."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from nds_plugin.ssl.augment import MOCO, WORDS, augment, in_32_bits
from nds_plugin.ssl.batches import Batch
from nds_plugin.ssl.network import SmallImageResNet, build_network
from nds_plugin.ssl.processes import gathered
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig


@in_32_bits
def contrast(
    queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 1 of MoCo: the mean over queries q of ``-log(exp(q k+ / t) / (exp(q k+ / t) + sum exp(q k / t)))``.

    Beside this loss, the share of queries that are nearer to k+ than to any k.

    Args:
        queries, keys: of length 1, shape (B, D); keys[i] is the positive k+ of queries[i].
        queue: the negatives k, of length 1, shape (K, D).
        temperature: t.
    """
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, queries @ queue.T], dim=1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
    return loss, (logits.argmax(1) == 0).float().mean()


class MoCo(nn.Module):
    """Query network, key network and queue; all are in its state dict.

    Keys are computed in another order of the batch than queries, so that their batch norms have no part in
    common ("shuffling BN"). The processes need no exchange of images for that: each makes the views that it
    is to look at.

    Args:
        network: of the trunk. config: of the method.
        seed: of the weights and the first queue.
        groups: parts of this process's batch with statistics of their own.
    """

    views = 2

    def __init__(self, network: NetworkConfig, config: PretrainConfig, seed: int, groups: int) -> None:
        super().__init__()
        self.query = build_network(network, config.dim, seed, groups)
        if config.version == 2:
            width = self.query.fc.in_features
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                hidden = nn.Linear(width, width)
            self.query.fc = nn.Sequential(hidden, nn.ReLU(), self.query.fc)  # type: ignore[assignment]
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.config = config
        start = torch.randn(config.queue, config.dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("queue", F.normalize(start))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.accuracy = torch.zeros(())  # of the last batch: see contrast
        self.queue: torch.Tensor
        self.place: torch.Tensor

    @property
    def trunk(self) -> SmallImageResNet:
        """The network that is pretrained."""
        return self.query

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, whose accuracy is kept."""
        how, size = MOCO[self.config.version], self.config.size
        queries = self.query(augment(batch.pixels, batch.units[:, :WORDS], size, how)).float()
        with torch.no_grad():
            self.follow()
            assert batch.other is not None
            views = augment(batch.other.pixels, batch.other.units[:, WORDS : 2 * WORDS], size, how)
            keys = gathered(F.normalize(self.key(views).float()))[batch.keys_at]
        queue, temperature = self.queue.clone(), self.config.temperature
        loss, self.accuracy = contrast(F.normalize(queries), keys[batch.own], queue, temperature)
        self.enqueue(keys)
        return loss

    @torch.no_grad()
    def follow(self) -> None:
        """Equation 2: the key network moves towards the query network."""
        for key, query in zip(self.key.parameters(), self.query.parameters()):
            key.lerp_(query, 1 - self.config.ema)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Put the newest keys in the place of the oldest."""
        places = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.place.copy_((self.place + len(keys)) % len(self.queue))
