"""ResNets in checkpoints of several makers: torchvision's names, Detectron2's and Caffe2's become torchvision's.

The depth follows from the names, the input that the network expects from its maker.
"""

from __future__ import annotations

import re

import torch
import torchvision
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.images.checkpoint_files import State
from nds_plugin.images.input_form import IMAGENET, MSRA, InputForm

# (blocks of the four stages, whether they are bottlenecks) -> torchvision's constructor
_DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
RESNETS = tuple(_DEPTHS.values())
# What stands at the start of the first block tells whose names a file uses.
_ANCHORS = {
    "torchvision": "layer1.0.conv1.weight",
    "detectron2": "res2.0.conv1.weight",
    "caffe2": "res2_0_branch2a_w",
}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")


def resnet_from_state(state: State, origin: str) -> tuple[nn.Module, str, InputForm, str]:
    """A ResNet without its last layer: the module, its name, the input it expects, and whose names it had.

    Args:
        state: tensors of a checkpoint; a whole detector may be around the ResNet.
        origin: how errors name it.

    Raises:
        NDSError: no ResNet-18, -34, -50 or -101, several, or one that lacks weights.
    """
    maker, state = _find_network(state, origin)
    form = MSRA if maker == "caffe2" or (maker == "detectron2" and _is_folded(state)) else IMAGENET
    if maker == "detectron2":
        state = {_from_detectron2(name): value for name, value in state.items()}
    elif maker == "caffe2":
        state = {_from_caffe2(name): value for name, value in state.items()}
    trunk = {name: value for name, value in state.items() if _TRUNK.match(name)}
    name = _architecture(trunk, origin)
    if maker == "caffe2":
        trunk = _with_statistics(trunk)
    return _fill(empty_resnet(name, form), trunk, name, origin), name, form, maker


def empty_resnet(name: str, form: InputForm) -> nn.Module:
    """A torchvision ResNet without its last layer, of random weights, with the strides of its form."""
    resnet = getattr(torchvision.models, name)(weights=None)
    resnet.fc = nn.Identity()
    if form == MSRA:
        for block in resnet.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return resnet


def _find_network(state: State, origin: str) -> tuple[str, State]:
    """Whose names a file uses, and the part of it that is the ResNet, without its prefix."""
    for maker, anchor in _ANCHORS.items():
        prefixes = [name[: -len(anchor)] for name in state if name.endswith(anchor)]
        if len(prefixes) > 1:
            raise NDSError(
                f"feature network: {origin} holds {len(prefixes)} ResNets ({', '.join(sorted(prefixes))}): "
                "save only one of them."
            )
        if prefixes:
            start = len(prefixes[0])
            return maker, {name[start:]: v for name, v in state.items() if name.startswith(prefixes[0])}
    raise NDSError(
        f"feature network: {origin} holds no ResNet: expected a name that ends in one of "
        f"{', '.join(_ANCHORS.values())}, got {', '.join(sorted(state)[:3]) or 'no arrays'}, ..."
    )


def _is_folded(state: State) -> bool:
    """Whether the batch norms' statistics are folded away, as in Detectron2's copies of MSRA's ResNets.

    torchvision's keep theirs. Detectron2's default config reads the folded ones, so that its
    default input and stride go with them.
    """
    mean, var = state.get("stem.conv1.norm.running_mean"), state.get("stem.conv1.norm.running_var")
    if mean is None or var is None:
        return True
    return bool((mean == 0).all() and (var == var[0]).all())


def _from_detectron2(name: str) -> str:
    name = re.sub(r"^stem\.", "", name)
    name = re.sub(r"^res([2-5])\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return re.sub(r"conv([1-3])\.norm\.", r"bn\1.", name)


def _from_caffe2(name: str) -> str:
    if not re.match(r"(conv1|res_conv1_bn|res[2-5]_\d+_branch(1|2[abc])(_bn)?)_[wsb]$", name):
        return name
    name = name.replace("res_conv1_bn_", "conv1_norm_").replace("_bn_", "_norm_")
    for caffe2, detectron2 in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3")):
        name = name.replace(f"_branch{caffe2}_", f"_{detectron2}_")
    name = re.sub(r"_b$", "_bias", re.sub(r"_[ws]$", "_weight", name))
    return _from_detectron2(name.replace("_", "."))


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
            f"feature network: {origin} has stages of {blocks} {'bottleneck' if bottleneck else 'basic'} "
            f"blocks; expected one of {', '.join(_DEPTHS.values())}."
        )
    return name


def _with_statistics(trunk: State) -> State:
    """Add the batch statistics that Caffe2's files have folded into scale and shift."""
    scales = {
        name[: -len("weight")]: value
        for name, value in trunk.items()
        if re.search(r"(bn\d|downsample\.1)\.weight$", name)
    }
    for prefix, scale in scales.items():
        trunk[f"{prefix}running_mean"] = torch.zeros_like(scale)
        trunk[f"{prefix}running_var"] = torch.full_like(scale, 1 - 1e-5)  # 1 with batch norm's epsilon
    return trunk


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
            f"feature network: {origin} lacks {len(missing)} weights of {name}, first {missing[0]}: expected "
            "a whole ResNet with batch norm."
        )
    for key, value in expected.items():
        if trunk[key].shape != value.shape:
            raise NDSError(
                f"feature network: {origin}: {key} has shape {tuple(trunk[key].shape)}, {name} has "
                f"{tuple(value.shape)}: wide, thin and grouped ResNets are not supported."
            )
    resnet.load_state_dict({key: trunk[key] for key in expected}, strict=False)
    return resnet
