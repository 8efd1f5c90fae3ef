"""What a method of pretraining is: networks that learn from batches without labels, and what it asks of its settings."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import nn

from nds_plugin.ssl.network import SmallImageResNet
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig


class Learner(nn.Module, abc.ABC):
    """Gives the loss of a :class:`~nds_plugin.ssl.batches.Batch`; all that it learns is in its state dict.

    Args:
        network: of the trunk. config: of the method.
        seed: of the weights.
        groups: parts of this process's batch with statistics of their own.

    Attributes:
        views: of each image that it looks at; the second is that of the key network.
        accuracy: share of the last batch whose pretext task it did right.
    """

    views: ClassVar[int]

    def __init__(self, network: NetworkConfig, config: PretrainConfig, seed: int, groups: int) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.accuracy = torch.zeros(())

    @property
    @abc.abstractmethod
    def networks(self) -> tuple[SmallImageResNet, ...]:
        """Those that start from the same weights; the first is the one that is pretrained."""

    @property
    def trunk(self) -> SmallImageResNet:
        """The network that is pretrained."""
        return self.networks[0]

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """Refuse settings that do not go together, and warn of those that hardly do.

        Raises:
            NDSError: they do not.
        """

    @classmethod
    def check_images(cls, config: PretrainConfig, images: int) -> None:
        """Warn of a selection that the settings do not suit.

        Args:
            images: of the selection.
        """
