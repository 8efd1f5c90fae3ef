"""The network whose features the source is clustered by: ResNets from checkpoints of several makers.

Read are torchvision's own checkpoints, safetensors files (such as the shared rotation network),
and Detectron2's ``.pth`` and ``.pkl`` files with Detectron2's or Caffe2's names. Names become
torchvision's; the depth follows from the names, the input that the network expects from its
maker. Nothing in a file is executed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import load_arrays
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
_WRAPPERS = ("model", "state_dict", "blobs")
# What stands at the start of the first block tells whose names a file uses.
_ANCHORS = {
    "torchvision": "layer1.0.conv1.weight",
    "detectron2": "res2.0.conv1.weight",
    "caffe2": "res2_0_branch2a_w",
}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


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
        weights: path of a ResNet-18, -34, -50 or -101: torchvision's ``.pth``, ``.safetensors``,
            or Detectron2's ``.pth`` or ``.pkl`` (a whole detector may be around it).
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
        origin, state = "the shared network", dict(shared_state)
    else:
        origin, state = str(weights), _read(weights)
    maker, state = _find_network(state, origin)
    msra = maker == "caffe2" or (maker == "detectron2" and _is_folded(state))
    if maker == "detectron2":
        state = {_from_detectron2(name): value for name, value in state.items()}
    elif maker == "caffe2":
        state = {_from_caffe2(name): value for name, value in state.items()}
    trunk = {name: value for name, value in state.items() if _TRUNK.match(name)}
    name = _architecture(trunk, origin)
    if maker == "caffe2":
        trunk = _with_statistics(trunk)
    resnet = _fill(getattr(torchvision.models, name)(weights=None), trunk, name, origin)
    style = "BGR, as MSRA's" if msra else "RGB, as torchvision's"
    logger.info("feature network: %s from %s (%s names, input %s)", name, origin, maker, style)
    return FeatureNetwork(resnet, name, msra)


def _read(path: str | os.PathLike[str]) -> State:
    """All arrays of a checkpoint file under their names."""
    if not os.path.isfile(path):
        raise NDSError(f"feature network: no such file: {path}.")
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise NDSError(f"feature network: {path} is not a whole safetensors file ({error}).") from None
    content = load_arrays(path) if str(path).endswith(".pkl") else _torch_load(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise NDSError(
            f"feature network: {path} holds a {type(content).__name__}, expected a dict of weights: save the "
            "network's state_dict()."
        )
    return {str(name): _tensor(value) for name, value in content.items() if _is_array(value)}


def _torch_load(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises RuntimeError, UnpicklingError, EOFError, KeyError... for a broken file.
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NDSError(
            f"feature network: {path} cannot be read without running code from it, or is cut short "
            f"({cause[:200]}): give a file that holds only the state_dict()."
        ) from None


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))


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
