"""The ResNet of self-supervised pretraining: torchvision's, with a small-image stem, any width, and grouped batch norm."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from nds_plugin.errors import NDSError
from nds_plugin.images.checkpoint_forms import State, broken_weight, find_resnet, read_forms, to_detectron2
from nds_plugin.ssl.settings import NetworkConfig

_LAYERS: dict[int, tuple[Any, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
_STEMS = {"small": (3, 1), "half": (3, 2), "imagenet": (7, 2)}  # side of the kernel, stride
_POOLED = "imagenet"  # the stem that a pooling of stride 2 follows
_STAGES = 4
_BOTTOM_UP = "backbone.bottom_up."
_STEM = "conv1.weight"
_PAD = 2  # zeros on each side of a 3x3 kernel in a 7x7 one


class GroupedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of parts of the batch, as if each part were on a GPU of its own.

    The parts are consecutive. The running statistics are means over the parts, so that they do not depend on
    how many processes share the parts (:func:`Training.average`).
    """

    groups = 1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training or self.groups == 1:
            return super().forward(inputs)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        means = self.running_mean.repeat(self.groups, 1).unbind()
        variances = self.running_var.repeat(self.groups, 1).unbind()
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps)
            for part, mean, variance in zip(inputs.chunk(self.groups), means, variances)
        ]
        with torch.no_grad():
            self.running_mean.copy_(torch.stack(means).mean(0))
            self.running_var.copy_(torch.stack(variances).mean(0))
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return torch.cat(parts)


class SmallImageResNet(ResNet):
    """torchvision's ResNet, its names included, of another width and with another stem.

    Args:
        config: depth, width and stem.
        outputs: of the last layer.
    """

    def __init__(self, config: NetworkConfig, outputs: int) -> None:
        nn.Module.__init__(self)  # the parent's own builds a network of 64 channels
        block, layers = _LAYERS[config.depth]
        width = config.width
        self._norm_layer = GroupedBatchNorm
        self.inplanes, self.dilation = width, 1
        self.groups, self.base_width = 1, 64
        side, stride = _STEMS[config.stem]
        self.conv1 = nn.Conv2d(3, width, side, stride, padding=side // 2, bias=False)
        self.bn1 = GroupedBatchNorm(width)
        self.relu = nn.ReLU(inplace=True)
        pooled = config.stem == _POOLED
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if pooled else nn.Identity()
        for stage in range(_STAGES):
            layer = self._make_layer(block, width * 2**stage, layers[stage], stride=1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width * 2 ** (_STAGES - 1) * block.expansion, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_network(config: NetworkConfig, outputs: int, seed: int, groups: int = 1) -> SmallImageResNet:
    """A network with random weights that only ``seed`` decides; torch's global random state stays as it was.

    Args:
        groups: parts of a batch with statistics of their own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = SmallImageResNet(config, outputs)
    for module in network.modules():
        if isinstance(module, GroupedBatchNorm):
            module.groups = groups
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@functools.cache
def multiply_adds(config: NetworkConfig, size: int) -> int:
    """Multiply-adds of a network's convolutions in a forward pass over an image of ``size`` pixels a side."""
    total = 0

    def count(conv: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(conv, nn.Conv2d)
        total += output.numel() * conv.weight[0].numel()

    with torch.device("meta"):  # shapes alone
        network = SmallImageResNet(config, 1).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        network(torch.empty(1, 3, size, size))
    return total


def trunk(network: nn.Module) -> State:
    """All weights but those of the last layer, on the CPU."""
    state = network.state_dict()
    return {
        name: value.detach().cpu().contiguous() for name, value in state.items() if not name.startswith("fc.")
    }


def load_trunk(network: SmallImageResNet, state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Put the weights of a ResNet into a network; its last layer stays as it is.

    A 3x3 stem that :func:`for_detectron2` made a 7x7 one becomes itself again.

    Raises:
        NDSError: they are of another depth, width or stem, or not numbers that a network can start from.
    """
    own = trunk(network)
    if _STEM in state and own[_STEM].shape[-1] == 3:
        state = {**state, _STEM: _without_zeros(state[_STEM])}
    lacking = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if lacking or extra or other:
        first = (lacking or extra or other)[0]
        told = f"{first} is not in the file" if lacking else f"{first} has no place in the network"
        if other and not lacking and not extra:
            told = f"{first} has shape {tuple(state[first].shape)}, in the network {tuple(own[first].shape)}"
        raise NDSError(
            f"{origin} does not fit: {told}: set MODEL.DEPTH, MODEL.WIDTH and MODEL.STEM as they were when it was "
            "trained, or give another file."
        )
    if (broken := broken_weight(state)) is not None:
        raise NDSError(f"{origin}: {broken}: take another checkpoint.")
    network.load_state_dict({**own, **state}, strict=False)


def read_trunk(path: str, what: str, network: NetworkConfig) -> State:
    """The ResNet in a file of any known form, under torchvision's names.

    Args:
        network: that it is for. Files of our own say of which they are: two stems differ in no weight's shape.

    Raises:
        NDSError: no such file, no ResNet in it, one of another network, or one whose batch norms have no statistics.
    """
    file = read_forms(path, what)
    meta = file.content.get("meta")
    told = meta.get("network") if isinstance(meta, Mapping) else None
    told = told if isinstance(told, Mapping) else {}  # the file of another tool
    for name, value in network.identity().items():
        if told.get(name, value) != value:
            raise NDSError(
                f"{what} {path} does not fit: it was trained with MODEL.{name.upper()} {told[name]}, here it is {value}: set "
                "it as it was, or give another file."
            )
    found = find_resnet(file.arrays, f"{what} {path}")
    if found.folded:
        raise NDSError(
            f"{what} {path}: the statistics of its batch norms are folded away, as in MSRA's R-50.pkl, so that no "
            "training can start from them: give the weights of torchvision, timm or a training of your own."
        )
    return found.trunk


def for_detectron2(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A trunk as the weights of a Detectron2 model's ``backbone.bottom_up``.

    Detectron2's stem is 7x7; a 3x3 kernel stands in the middle of such a one, zeros around it.
    """
    found = {
        f"{_BOTTOM_UP}{to_detectron2(name)}": value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    stem = f"{_BOTTOM_UP}stem.conv1.weight"
    if found[stem].shape[-1] == 3:
        found[stem] = F.pad(found[stem], (_PAD,) * 4)
    return found


def _without_zeros(stem: torch.Tensor) -> torch.Tensor:
    """The middle of a 7x7 kernel where there is nothing but zeros around it; any other kernel as it is."""
    if stem.shape[-2:] != (7, 7):
        return stem
    middle = stem[..., _PAD:-_PAD, _PAD:-_PAD]
    return middle if middle.count_nonzero() == stem.count_nonzero() else stem
