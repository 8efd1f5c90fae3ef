"""The network whose features the source is clustered by: ResNets from checkpoints of several makers.

Which files are read is told in :mod:`nds_plugin.images.checkpoint_forms`. The depth follows from the names, the
input that the network expects from its maker.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping

import torch
import torchvision
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.images.checkpoint_forms import State, broken_weight, find_resnet, read_forms
from nds_plugin.images.networks import MEAN, STD, normalise

MSRA_MEAN = (103.530 / 255, 116.280 / 255, 123.675 / 255)  # BGR; Detectron2's default PIXEL_MEAN
MSRA_STD = (1 / 255, 1 / 255, 1 / 255)
# (blocks of the four stages, whether they are bottlenecks) -> torchvision's constructor
_DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")

logger = logging.getLogger(__name__)


class FeatureNetwork(nn.Module):
    """A ResNet without its last layer: uint8 crops (B, S, S, 3), RGB, to features (B, D).

    Args:
        resnet: a torchvision ResNet; its parameters are frozen.
        name: architecture, for logs.
        msra: whether it expects Detectron2's default input (BGR, not divided by the standard
            deviation) and strides in the first convolution of a bottleneck, as MSRA's do.
    """

    def __init__(self, resnet: nn.Module, name: str, msra: bool = False) -> None:
        super().__init__()
        resnet.fc = nn.Identity()
        self.resnet = resnet
        self.name = name
        self.msra = msra
        if msra:
            for block in resnet.modules():
                if isinstance(block, torchvision.models.resnet.Bottleneck):
                    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        self.requires_grad_(False).eval()

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """The globally average-pooled output of the last stage, float32 of shape (B, D)."""
        if self.msra:
            return self.resnet(normalise(crops.flip(-1), MSRA_MEAN, MSRA_STD))
        return self.resnet(normalise(crops, MEAN, STD))


def load_feature_network(
    weights: str | os.PathLike[str] | None = None,
    shared_state: Mapping[str, torch.Tensor] | None = None,
) -> FeatureNetwork:
    """The frozen feature network, on the CPU.

    Args:
        weights: path of a ResNet-18, -34, -50 or -101 in any of the forms of
            :mod:`nds_plugin.images.checkpoint_forms` (a whole detector may be around it).
        shared_state: where ``weights`` is None, the state dict of a torchvision ResNet, such as
            the shared rotation network's.

    Raises:
        NDSError: neither or both given; the file is missing, broken, would run code, or holds
            another network than those.
    """
    if (weights is None) == (shared_state is None):
        raise NDSError("feature network: expected either the path of a checkpoint or a state dict.")
    if weights is None:
        assert shared_state is not None
        origin, state = "feature network: the shared network", dict(shared_state)
    else:
        origin, state = f"feature network: {weights}", read_forms(weights, "feature network").arrays
    found = find_resnet(state, origin)
    name = _architecture(found.trunk, origin)
    resnet = _fill(getattr(torchvision.models, name)(weights=None), found.trunk, name, origin)
    style = "BGR, as MSRA's" if found.folded else "RGB, as torchvision's"
    source = origin.removeprefix("feature network: ")
    logger.info("feature network: %s from %s (%s names, input %s)", name, source, found.maker, style)
    return FeatureNetwork(resnet, name, found.folded)


def _architecture(trunk: State, origin: str) -> str:
    """torchvision's name of the ResNet with these blocks."""
    blocks = tuple(
        len({name.split(".")[1] for name in trunk if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in trunk
    name = _DEPTHS.get((blocks, bottleneck))
    if name is None:
        raise NDSError(
            f"{origin} has stages of {blocks} {'bottleneck' if bottleneck else 'basic'} "
            f"blocks; expected one of {', '.join(_DEPTHS.values())}."
        )
    return name


def _fill(resnet: nn.Module, trunk: State, name: str, origin: str) -> nn.Module:
    """Copy the weights of the trunk, all of which must be there and fit."""
    tracked = "num_batches_tracked"  # a counter that files of before torch 0.4.1 lack
    expected = {
        key: value
        for key, value in resnet.state_dict().items()
        if _TRUNK.match(key) and not key.endswith(tracked)
    }
    missing = [key for key in expected if key not in trunk]
    if missing:
        raise NDSError(
            f"{origin} lacks {len(missing)} weights of {name}, first {missing[0]}: expected "
            "a whole ResNet with batch norm."
        )
    for key, value in expected.items():
        if trunk[key].shape != value.shape:
            raise NDSError(
                f"{origin}: {key} has shape {tuple(trunk[key].shape)}, {name} has "
                f"{tuple(value.shape)}: wide, thin and grouped ResNets are not supported."
            )
    if (broken := broken_weight(trunk)) is not None:
        raise NDSError(f"{origin}: {broken}: take another checkpoint.")
    # Such as squeeze-and-excitation: without them it would be another network. Caffe2's files hold a bias of zeros.
    extra = [key for key in trunk if key not in expected and not key.endswith(tracked) and trunk[key].any()]
    if extra:
        raise NDSError(
            f"{origin} has {len(extra)} weights that {name} does not have, first {extra[0]}: expected a plain "
            "ResNet."
        )
    resnet.load_state_dict({key: trunk[key] for key in expected}, strict=False)
    return resnet
