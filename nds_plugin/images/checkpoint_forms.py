"""Checkpoints of several makers, read without executing anything: their arrays, and the ResNet among them.

Read are torch's own files (``.pth``, ``.pt``, ``.ckpt``, ``.tar``, ``.pyth``), safetensors and Detectron2's
``.pkl``, in the forms of torchvision, timm, MoCo, DINO, Lightning, MMCV and MMEngine, Detectron2 and Caffe2:
the state dict may lie under another name, and the ResNet below a prefix.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import read_arrays

State = dict[str, torch.Tensor]

# Where the weights lie in a file; of a teacher and a student, the teacher's are those to go on with.
_WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "blobs", "teacher")
# What stands at the start of the first block tells whose names a file uses.
_ANCHORS = {
    "torchvision": "layer1.0.conv1.weight",
    "detectron2": "res2.0.conv1.weight",
    "caffe2": "res2_0_branch2a_w",
    "numbered": "4.0.conv1.weight",  # torchvision's modules in an nn.Sequential
}
_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_TRUNK = re.compile(r"(conv1|bn1|layer[1-4])\.")
# Networks that only follow another one, whose weights are those to go on with.
_FOLLOWERS = re.compile(r"encoder_k\b|momentum|student|target|(^|[._])ema\b")
# What files of training scripts hold beside the weights, and what unpickling only fills with values.
_HARMLESS = [argparse.Namespace]
# A safetensors file begins with the length of its header, a JSON object.
_SAFETENSORS = re.compile(rb".{5}\0\0\0\{", re.DOTALL)
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # a zip archive; before torch 1.6 a pickle
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_REFUSED = re.compile(r"(?:GLOBAL|global:?|class) ([\w.]*\.[\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of a file.

    Attributes:
        content: what the file holds.
        arrays: the weights by name, as tensors.
        form: whose form it looks like, for messages.
    """

    content: Mapping[Any, Any]
    arrays: State
    form: str


@dataclass(frozen=True)
class ResNetWeights:
    """The ResNet in a checkpoint.

    Attributes:
        maker: whose names the file uses, a key of ``_ANCHORS``.
        prefix: what stands before its names.
        trunk: all but the last layer, under torchvision's names.
        folded: the batch norms' statistics are folded away, as in MSRA's copies.
    """

    maker: str
    prefix: str
    trunk: State
    folded: bool


def read_forms(path: str | os.PathLike[str], what: str) -> Checkpoint:
    """Read a checkpoint file of any known form.

    Args:
        what: begins every message: what the file is for.

    Raises:
        NDSError: missing, empty, cut short, no dict of weights, or one that would run code.
    """
    check_file(path, what)
    content = _read(path, what)
    weights = content
    while isinstance(weights, Mapping):
        inner = next((weights[w] for w in _WRAPPERS if isinstance(weights.get(w), Mapping)), None)
        if inner is None:
            break
        weights = inner
    if not isinstance(weights, Mapping):
        raise NDSError(
            f"{what}: {path} holds a {type(weights).__name__}, expected a dict of weights: save the network's "
            "state_dict()."
        )
    arrays = {str(name): _tensor(value) for name, value in weights.items() if _is_array(value)}
    return Checkpoint(content, arrays, _form(content, arrays))


def check_file(path: str | os.PathLike[str], what: str) -> None:
    """Refuse what is no file, or an empty one.

    Raises:
        NDSError: it is.
    """
    if os.path.isdir(path):
        raise NDSError(f"{what}: {path} is a folder, expected a checkpoint file: name the file in it.")
    if not os.path.isfile(path):
        raise NDSError(f"{what}: no such file: {path}: check the path.")
    if not os.path.getsize(path):
        raise NDSError(f"{what}: {path} is empty: get the file again.")


def find_resnet(state: Mapping[str, torch.Tensor], origin: str) -> ResNetWeights:
    """The ResNet among some arrays, whoever named them.

    Of a network and another one that follows it (MoCo's keys, a student), it is the former.

    Args:
        origin: what the arrays are called in messages.

    Raises:
        NDSError: there is none, or there are several.
    """
    for maker, anchor in _ANCHORS.items():
        # "4.0.conv1.weight" is also the end of "layer4.0.conv1.weight".
        starts = [name[: -len(anchor)] for name in state if name.endswith(anchor)]
        prefixes = [prefix for prefix in starts if not prefix or not prefix[-1].isalnum()]
        leading = [prefix for prefix in prefixes if not _FOLLOWERS.search(prefix)] or prefixes
        if len(leading) > 1:
            raise NDSError(
                f"{origin} holds {len(leading)} ResNets ({', '.join(sorted(leading))}): save only one of them."
            )
        if leading:
            start = len(leading[0])
            own = {name[start:]: v for name, v in state.items() if name.startswith(leading[0])}
            return _as_torchvision(maker, leading[0], own)
    raise NDSError(
        f"{origin} holds no ResNet: expected a name that ends in one of {', '.join(_ANCHORS.values())}, got "
        f"{', '.join(sorted(state)[:3]) or 'no arrays'}, ..."
    )


def to_detectron2(name: str) -> str:
    """Detectron2's name of a weight of torchvision's ResNet.

    >>> to_detectron2("layer1.0.bn2.bias"), to_detectron2("conv1.weight")
    ('res2.0.conv2.norm.bias', 'stem.conv1.weight')
    """
    name = re.sub(r"(^|\.)bn([1-3])\.", r"\1conv\2.norm.", name)
    name = name.replace("downsample.1.", "shortcut.norm.").replace("downsample.0.", "shortcut.")
    staged = re.sub(r"^layer([1-4])\.", lambda match: f"res{int(match[1]) + 1}.", name)
    return staged if staged != name else f"stem.{name}"


def broken_weight(state: Mapping[str, torch.Tensor]) -> str | None:
    """What is wrong with the first of some weights that no network can start from; None if there is none."""
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.dtype not in _FLOATS:
            return f"{name} is of {value.dtype}, expected floating point numbers of 16 bits or more"
        if not value.isfinite().all():
            return f"{name} holds NaN or an infinity"
    return None


def _read(path: str | os.PathLike[str], what: str) -> Any:
    with open(path, "rb") as file:
        start = file.read(16)
    if str(path).endswith(".safetensors") or _SAFETENSORS.match(start):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise NDSError(f"{what}: {path} is not a whole safetensors file ({error}).") from None
    if str(path).endswith(".pkl"):
        return read_arrays(lambda: open(path, "rb"), f"{what}: {path}")
    if not start.startswith(_TORCH_STARTS):
        raise NDSError(
            f"{what}: {path} is no checkpoint, it begins with {start!r}: get it again (a web page or a pointer of "
            "Git LFS may have been saved in its place)."
        )
    return _torch_load(path, what)


def _torch_load(path: str | os.PathLike[str], what: str) -> Any:
    # Files of before torch 2.5 with such an object are refused there.
    allow = getattr(torch.serialization, "safe_globals", lambda _: contextlib.nullcontext())
    try:
        with allow(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises RuntimeError, UnpicklingError, EOFError, KeyError... for a broken file.
        text = str(error).strip()
        asked = _REFUSED.search(text)
        if asked:
            raise NDSError(
                f"{what}: {path} cannot be read without running code from it (its pickle asks for {asked[1]}): "
                "give a file that holds only the state_dict()."
            ) from None
        cause = text.splitlines()[0].split(". This file")[0] if text else type(error).__name__
        raise NDSError(
            f"{what}: {path} cannot be read without running code from it, or is cut short ({cause[:200]}): get it "
            "again, or give a file that holds only the state_dict()."
        ) from None


def _is_array(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_meta  # a shape without numbers
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _tensor(value: Any) -> torch.Tensor:
    """A dense tensor, however the file keeps it."""
    if not isinstance(value, torch.Tensor):
        return torch.from_numpy(np.array(value))
    value = value.dequantize() if value.is_quantized else value
    return value if value.layout == torch.strided else value.to_dense()


def _form(content: Any, arrays: State) -> str:
    """Whose form a file looks like."""
    if any("encoder_q." in name or "base_encoder." in name for name in arrays):
        return "MoCo"
    if "pytorch-lightning_version" in content:
        return "Lightning"
    if "teacher" in content:
        return "DINO"
    if "meta" in content and "state_dict" in content:
        return "MMCV or MMEngine"
    for maker, anchor in _ANCHORS.items():
        if any(name.endswith(anchor) for name in arrays):
            return {"torchvision": "torchvision or timm", "detectron2": "Detectron2", "caffe2": "Caffe2"}.get(
                maker, "a numbered Sequential"
            )
    return "another network"


def _as_torchvision(maker: str, prefix: str, state: State) -> ResNetWeights:
    folded = maker == "caffe2" or (maker == "detectron2" and _is_folded(state))
    if maker == "detectron2":
        state = {_from_detectron2(name): value for name, value in state.items()}
    elif maker == "caffe2":
        state = {_from_caffe2(name): value for name, value in state.items()}
    elif maker == "numbered":
        parts = ((name.partition("."), value) for name, value in state.items())
        state = {f"{_NUMBERED.get(first, first)}.{rest}": value for (first, _, rest), value in parts}
    trunk = {name: value for name, value in state.items() if _TRUNK.match(name)}
    if maker == "caffe2":
        trunk = _with_statistics(trunk)
    return ResNetWeights(maker, prefix, trunk, folded)


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
