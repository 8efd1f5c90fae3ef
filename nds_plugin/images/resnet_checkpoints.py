"""ResNets without their last layer from a checkpoint's arrays, and the input that each expects.

The depth follows from the names, the input from the maker (:mod:`nds_plugin.images.checkpoint_forms`).
"""

from __future__ import annotations

import re

import torchvision
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.images.checkpoint_forms import State, broken_weight, find_resnet
from nds_plugin.images.input_form import IMAGENET, MSRA, InputForm

# (blocks of the four stages, whether they are bottlenecks) -> torchvision's constructor
_DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
RESNETS = tuple(_DEPTHS.values())
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")


def resnet_from_state(state: State, origin: str) -> tuple[nn.Module, str, InputForm, str]:
    """A ResNet without its last layer: the module, its name, the input it expects, and whose names it had.

    Args:
        state: tensors of a checkpoint; a whole detector may be around the ResNet.
        origin: what the arrays are called in messages.

    Raises:
        NDSError: no ResNet-18, -34, -50 or -101, several, or one that lacks weights.
    """
    found = find_resnet(state, origin)
    form = MSRA if found.folded else IMAGENET
    name = _architecture(found.trunk, origin)
    return _fill(empty_resnet(name, form), found.trunk, name, origin), name, form, found.maker


def empty_resnet(name: str, form: InputForm) -> nn.Module:
    """A torchvision ResNet without its last layer, of random weights, with the strides of its form."""
    resnet = getattr(torchvision.models, name)(weights=None)
    resnet.fc = nn.Identity()
    if form == MSRA:
        for block in resnet.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return resnet


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
