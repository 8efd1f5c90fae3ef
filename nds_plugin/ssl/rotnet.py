"""RotNet (Gidaris et al., 2018): which of four rotations was an image given? By the experts' own task."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nds_plugin.experts.manifest import ROTATIONS
from nds_plugin.experts.tasks import RotationTask
from nds_plugin.ssl.augment import WORDS, crops
from nds_plugin.ssl.batches import Batch
from nds_plugin.ssl.learner import Learner
from nds_plugin.ssl.network import SmallImageResNet, build_network
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig

MIN_CROP = 0.5  # smallest share of an image in a crop; our choice


class RotNet(Learner):
    """The network and its four outputs."""

    views = 1

    def __init__(self, network: NetworkConfig, config: PretrainConfig, seed: int, groups: int) -> None:
        super().__init__(network, config, seed, groups)
        self.network = build_network(network, ROTATIONS, seed, groups)
        self.task = RotationTask()

    @property
    def networks(self) -> tuple[SmallImageResNet, ...]:
        """The one."""
        return (self.network,)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, all four rotations of each image; its accuracy is kept."""
        images = batch.pixels.permute(0, 3, 1, 2).float()
        cut = crops(images, batch.units[:, :WORDS], self.config.size, MIN_CROP).permute(0, 2, 3, 1)
        inputs, targets = self.task.batch(cut, torch.zeros(len(cut), device=cut.device))
        outputs = self.network(inputs).float()
        self.accuracy = (outputs.detach().argmax(1) == targets).float().mean()
        return F.cross_entropy(outputs, targets)
