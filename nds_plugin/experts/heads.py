"""Head experts: a linear classifier of the proxy task per cluster, all on the features of one frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import ROTATIONS
from nds_plugin.experts.tasks import rotations
from nds_plugin.images.backbones import FeatureNetwork


@dataclass(frozen=True)
class Heads:
    """K classifiers of raw features; the standardisation of training is part of weights and biases.

    Attributes:
        weight: float32, shape (K, C, D).
        bias: float32, shape (K, C).
        shared_weight, shared_bias: of the classifier that was fitted on all clusters together, shapes (C, D)
            and (C,); relative scores compare to it.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    shared_weight: torch.Tensor
    shared_bias: torch.Tensor

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by their names in a file."""
        return {
            "weight": self.weight,
            "bias": self.bias,
            "shared.weight": self.shared_weight,
            "shared.bias": self.shared_bias,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], shape: tuple[int, int, int], where: str) -> Heads:
        """Read what :meth:`state` gave.

        Args:
            state: tensors by name.
            shape: (K, C, D) that they must have.
            where: how an error names the file.

        Raises:
            NDSError: other names, shapes or dtypes.
        """
        expected = {"weight": shape, "bias": shape[:2], "shared.weight": shape[1:], "shared.bias": shape[1:2]}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if found != expected or any(tensor.dtype != torch.float32 for tensor in state.values()):
            raise NDSError(
                f"{where}: expected float32 tensors {expected}, got {found}: not the heads of this set."
            )
        return cls(state["weight"], state["bias"], state["shared.weight"], state["shared.bias"])

    def to(self, device: torch.device) -> Heads:
        """The same on a device."""
        return Heads(*(tensor.to(device) for tensor in self.state().values()))

    def logits(self, features: torch.Tensor, head: int | None) -> torch.Tensor:
        """Logits of one head, or of the shared one (None): features (n, D) to float64 (n, C).

        One head at a time and without a matrix product, whose last bits could depend on the number of heads
        and of cores.
        """
        weight = self.shared_weight if head is None else self.weight[head]
        bias = self.shared_bias if head is None else self.bias[head]
        return (features.double()[:, None, :] * weight.double()).sum(dim=2) + bias.double()


class FourRotations(nn.Module):
    """The backbone's features of a crop in its four rotations: uint8 (B, S, S, 3) to (B, 4 D).

    Args:
        network: the backbone.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def interpolation(self) -> str:
        """See :class:`~nds_plugin.images.backbones.FeatureNetwork`."""
        return self.network.interpolation

    def identity(self) -> dict[str, Any]:
        """What decides the features beside the weights."""
        return {**self.network.identity(), "rotations": ROTATIONS}

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Features, rotation after rotation; each rotation is a batch of its own, of the size of the crops."""
        turned = rotations(crops).unflatten(0, (len(crops), ROTATIONS))
        return torch.cat([self.network(turned[:, k]) for k in range(ROTATIONS)], dim=1)
