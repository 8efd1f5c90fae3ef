"""MoCo (He et al., 2020; version 2: Chen et al., 2020): queries contrast with keys of a slow network, kept in a queue."""

from __future__ import annotations

import copy
import logging

import torch
import torch.nn.functional as F
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.settings import named
from nds_plugin.ssl.augment import MOCO, WORDS, augment, in_32_bits
from nds_plugin.ssl.batches import Batch
from nds_plugin.ssl.learner import Learner
from nds_plugin.ssl.network import SmallImageResNet, build_network
from nds_plugin.ssl.processes import gathered
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig

logger = logging.getLogger(__name__)
_VERSION_1 = named(PretrainConfig, "temperature").default


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


class MoCo(Learner):
    """Query network, key network and queue; all are in its state dict.

    Keys are computed in another order of the batch than queries, so that their batch norms have no part in
    common ("shuffling BN"). The processes need no exchange of images for that: each makes the views that it
    is to look at.
    """

    views = 2

    def __init__(self, network: NetworkConfig, config: PretrainConfig, seed: int, groups: int) -> None:
        super().__init__(network, config, seed, groups)
        self.query = build_network(network, config.dim, seed, groups)
        if config.version == 2:
            width = self.query.fc.in_features
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed + 1)
                hidden = nn.Linear(width, width)
            self.query.fc = nn.Sequential(hidden, nn.ReLU(), self.query.fc)  # type: ignore[assignment]
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        start = torch.randn(config.queue, config.dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("queue", F.normalize(start))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self.queue: torch.Tensor
        self.place: torch.Tensor

    @property
    def networks(self) -> tuple[SmallImageResNet, ...]:
        """Query and key network."""
        return self.query, self.key

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """The queue must hold whole batches; see :meth:`Learner.check`."""
        if config.batch_size > config.queue:
            raise NDSError(
                f"PRETRAIN.BATCH_SIZE {config.batch_size} is larger than PRETRAIN.QUEUE {config.queue}: the queue must hold "
                "at least one batch."
            )
        if config.queue % config.batch_size:
            raise NDSError(
                f"PRETRAIN.QUEUE {config.queue} must be a multiple of PRETRAIN.BATCH_SIZE {config.batch_size}: the keys of a "
                "batch take the place of the oldest."
            )
        if config.bn_groups == 1:
            logger.warning(
                "PRETRAIN.BN_GROUPS is 1: the statistics of the batch norms tell MoCo which key belongs to a query, so that "
                "it may learn little else. Take 2 or more."
            )
        if config.version == 2 and config.temperature == _VERSION_1:
            logger.warning(
                "PRETRAIN.VERSION is 2, but PRETRAIN.TEMPERATURE is %g, that of version 1: the paper of version 2 takes 0.2.",
                config.temperature,
            )

    @classmethod
    def check_images(cls, config: PretrainConfig, images: int) -> None:
        """The queue should not hold an image several times; see :meth:`Learner.check_images`."""
        if images < config.queue:
            logger.warning(
                "PRETRAIN.QUEUE %d is larger than the selection of %d images: images are contrasted with older views of "
                "themselves. Lower it.", config.queue, images,
            )  # fmt: skip

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
