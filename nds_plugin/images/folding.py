"""Batch norms folded into the convolutions before them: the same features of a frozen network in less time."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nds_plugin.images.backbones import FeatureNetwork

logger = logging.getLogger(__name__)
TOLERANCE = 1e-4  # of the largest feature; rounding alone stays far below it


def folded(network: FeatureNetwork, crop_size: int) -> FeatureNetwork:
    """A copy of the network whose batch norms are folded, or the network itself where that cannot be done.

    That a batch norm follows a convolution is taken from the order in which a network's parts are registered,
    which need not be that in which they run. So the copy is tried on a crop of noise first, and only taken if
    its features are the same.

    Args:
        network: frozen, float32, on the CPU.
        crop_size: side of the crops in pixels.
    """
    candidate = copy.deepcopy(network)
    if not _fold(candidate.body):
        return network
    noise = torch.randint(0, 256, (1, crop_size, crop_size, 3), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(noise.byte())
        try:
            found = candidate(noise.byte())
        except RuntimeError:  # shapes that do not fit: it was another convolution's
            found = torch.full_like(expected, torch.nan)
    if bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max()):
        return candidate
    logger.info("the batch norms of %s are not folded: they do not follow their convolutions.", network.name)
    return network


def _fold(module: nn.Module) -> int:
    """Fold what stands side by side; how many batch norms that were."""
    count, before = 0, ""
    for name, child in list(module.named_children()):
        convolution = getattr(module, before) if before else None
        if (
            isinstance(child, nn.BatchNorm2d)
            and isinstance(convolution, nn.Conv2d)
            and convolution.out_channels == child.num_features
        ):
            setattr(module, before, fuse_conv_bn_eval(convolution, child))
            # timm's batch norms hold the activation that follows them.
            setattr(module, name, getattr(child, "act", nn.Identity()))
            count, before = count + 1, ""
            continue
        count, before = count + _fold(child), name
    return count
