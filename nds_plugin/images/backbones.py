"""The frozen networks whose features images are told apart by: ResNets from files, timm's by name.

A network is named by a checkpoint's path (a ResNet of several makers), by ``package:NAME``, or by timm's
name together with weights. The input that it expects follows from it. Nothing in a file is executed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.images.checkpoint_forms import State, read_forms
from nds_plugin.images.input_form import IMAGENET, MSRA, InputForm
from nds_plugin.images.named_network import PACKAGE, NamedNetwork, check_spelling, names_weights
from nds_plugin.images.networks import normalise
from nds_plugin.images.resnet_checkpoints import RESNETS, empty_resnet, resnet_from_state
from nds_plugin.images.timm_networks import (
    build_timm,
    cause_of,
    check_name,
    fitting,
    input_form,
    load_timm,
    package_network,
    require_timm,
)

logger = logging.getLogger(__name__)


class FeatureNetwork(nn.Module):
    """A network without its last layer: uint8 crops (B, S, S, 3), RGB, to features (B, D).

    Args:
        body: inputs (B, 3, S, S) to features (B, D); its parameters are frozen.
        name: architecture, torchvision's or timm's.
        form: the input that it expects.
    """

    def __init__(self, body: nn.Module, name: str, form: InputForm = IMAGENET) -> None:
        super().__init__()
        self.body = body
        self.name = name
        self.form = form
        self.requires_grad_(False).eval()

    @property
    def interpolation(self) -> str:
        """The filter that crops are to be resized with."""
        return self.form.interpolation

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """The globally average-pooled output of the last stage, float32 of shape (B, D)."""
        if self.form.order == "BGR":
            crops = crops.flip(-1)
        return self.body(normalise(crops, self.form.mean, self.form.std))

    def dimension(self, crop_size: int) -> int:
        """D, the number of features.

        Raises:
            NDSError: the network does not take crops of this size.
        """
        device = next(self.parameters()).device
        try:
            with torch.inference_mode():
                found = self(torch.zeros((1, crop_size, crop_size, 3), dtype=torch.uint8, device=device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise NDSError(
                f"network {self.name!r} does not take crops of {crop_size} pixels ({cause_of(error)})."
            ) from None
        if found.ndim != 2:
            raise NDSError(f"network {self.name!r} gives no vector of features: shape {tuple(found.shape)}.")
        return int(found.shape[1])

    def describe(self) -> dict[str, Any]:
        """What :func:`restore` needs beside the weights, for JSON."""
        return {"arch": self.name, "input": self.form.to_dict()}

    def identity(self) -> dict[str, Any]:
        """What decides the features beside the weights; of ResNets in words that earlier keys were made of."""
        if self.name in RESNETS and self.form in (IMAGENET, MSRA):
            return {"name": self.name, "msra": str(self.form == MSRA)}
        return self.describe()


def load_feature_network(
    weights: str | os.PathLike[str] | None = None,
    shared_state: Mapping[str, torch.Tensor] | None = None,
    network: str = "",
) -> FeatureNetwork:
    """The frozen feature network, on the CPU.

    Args:
        weights: path of a checkpoint, or ``package:efficientnet-lite0``. Without ``network`` a file holds a
            ResNet-18, -34, -50 or -101 in any of the forms of :mod:`nds_plugin.images.checkpoint_forms` (a
            whole detector may be around it).
        shared_state: in place of all else, the state dict of a torchvision ResNet, such as the shared
            rotation network's.
        network: a name: torchvision's of one of those ResNets, or any of timm's; without weights, they come
            from timm's hub. A path or ``package:NAME`` is taken for weights.

    Raises:
        NDSError: nothing given; an unknown network or one that timm, which is not installed, would know; the
            file is missing, broken, would run code, or holds another network; no hub is reached.
    """
    for text in (network, str(weights or "")):
        check_spelling(text)
    if network and weights is None and names_weights(network):
        network, weights = "", network
    if (weights is None and not network) == (shared_state is None):
        raise NDSError("feature network: expected either the path of a checkpoint or a state dict.")
    if shared_state is not None:
        return _resnet(dict(shared_state), "the shared network", "")
    if weights is not None and str(weights).startswith(PACKAGE):
        known = package_network(str(weights))
        require_timm(str(weights))  # an error names what was given, not timm's name for it
        network = network or known
    elif weights is not None and network in ("", *RESNETS):
        return _resnet(read_forms(weights, "feature network").arrays, str(weights), network)
    form = input_form(network)
    body = load_timm(network, weights or "")
    logger.info("feature network: %s of %s, input %s", network, weights or "timm's hub", form.to_dict())
    return FeatureNetwork(body, network, form)


def load_named(named: NamedNetwork) -> FeatureNetwork:
    """The network that settings name, or the default one; see :func:`load_feature_network`."""
    named = named.or_default()
    return load_feature_network(named.weights or None, network=named.network)


def _resnet(state: State, origin: str, wanted: str) -> FeatureNetwork:
    resnet, name, form, maker = resnet_from_state(state, f"feature network: {origin}")
    if wanted not in ("", name):
        raise NDSError(f"feature network: {origin} holds a {name}, expected a {wanted}.")
    style = "BGR, as MSRA's" if form.order == "BGR" else "RGB, as torchvision's"
    logger.info("feature network: %s from %s (%s names, input %s)", name, origin, maker, style)
    return FeatureNetwork(resnet, name, form)


def restore(description: Mapping[str, Any], state: Mapping[str, torch.Tensor], where: str) -> FeatureNetwork:
    """The network that :meth:`FeatureNetwork.describe` and ``body.state_dict()`` were taken of.

    Args:
        description: from a file that may be anybody's.
        state: weights by name.
        where: how an error names the file.

    Raises:
        NDSError: an unknown network, or weights that are not its own.
    """
    name, form = str(description.get("arch")), InputForm.from_dict(description.get("input"), where)
    if name in RESNETS:
        body = empty_resnet(name, form)
    else:
        check_name(name)
        with torch.device("meta"):  # what a stranger's file names may be too large to build
            fitting(state, build_timm(name, num_classes=0).state_dict(), where, name)
        body = build_timm(name, num_classes=0)
    body.load_state_dict(fitting(state, body.state_dict(), where, name))
    return FeatureNetwork(body, name, form)
