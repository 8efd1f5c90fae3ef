"""``MODEL.WEIGHTS``: where the file lies, whose form it has, and what of it fits the network.

Detectron2 reads its own files and its model zoo's; here files of others are read, too, as the feature
network's are (:mod:`nds_plugin.images.checkpoint_forms`): the ResNet in them goes into the backbone. Nothing is
unpickled that could run code, and weights that do not fit are refused, not left out.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode as CN
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import without_module_prefix
from nds_plugin.images.checkpoint_forms import (
    Checkpoint,
    State,
    broken_weight,
    find_resnet,
    read_forms,
    to_detectron2,
)

logger = logging.getLogger(__name__)

KEY = "MODEL.WEIGHTS"
_TIMEOUT_S = 30.0  # without an answer from the host of a link
_FIRST_BLOCK = "res2.0.conv1.weight"
_COUNTER = "num_batches_tracked"
# What the network has and files of plain ResNets lack: the offsets of deformable convolutions.
_OWN = re.compile(rf"(\.conv2_offset\.|{_COUNTER}$)")
# Statistics are left out of the count: copies with folded batch norms have none.
_UNCOUNTED = re.compile(rf"(running_mean|running_var|{_COUNTER})$")
_ENOUGH = 0.5  # of the backbone's weights, for Detectron2's own files: it says itself which it does not find
# What torchvision's ResNets, and those trained after their example, were trained on.
_INPUT = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


@dataclass(frozen=True)
class InitialWeights:
    """What of a file goes into a network.

    Attributes:
        state: weights by the network's own names; others, too, where the file is Detectron2's.
        found, expected: how many of the backbone's weights are in it, and how many there are.
        form: whose form the file has.
        foreign: the ResNet of another maker was put into the backbone.
    """

    state: State
    found: int
    expected: int
    form: str
    foreign: bool


def locate(weights: str) -> str:
    """The path of the file behind ``MODEL.WEIGHTS``; a link is downloaded unless it is in the cache.

    Raises:
        NDSError: a link that is not in the cache and cannot be downloaded.
    """
    if "://" not in weights:
        # Detectron2 takes "FILE?matching_heuristics=True"; here names are matched in any case.
        return weights if os.path.exists(weights) else weights.partition("?")[0]
    link = weights.partition("?")[0]
    try:
        with _downloading():
            return str(PathManager.get_local_path(link))
    except Exception as error:  # whatever the handlers of links raise: URLError, OSError, ValueError...
        cause = " ".join(str(error).split()) or type(error).__name__
        cache = os.path.expanduser(os.getenv("FVCORE_CACHE", "~/.torch/iopath_cache"))
        raise NDSError(
            f"{KEY} {weights} is not in the cache ({cache}) and cannot be downloaded ({cause[:150]}): give the path "
            "of the file, or start once with a network; FVCORE_CACHE names another cache."
        ) from None


@contextlib.contextmanager
def _downloading() -> Iterator[None]:
    """Sockets give up (by default a host that does not answer is waited for without an end), iopath is quiet."""
    before, downloads = socket.getdefaulttimeout(), logging.getLogger("iopath.common.download")
    level = downloads.level
    socket.setdefaulttimeout(_TIMEOUT_S)
    downloads.setLevel(logging.CRITICAL)  # the error is ours to tell
    # Its progress bar is for terminals.
    bar = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with bar:
            yield
    finally:
        socket.setdefaulttimeout(before)
        downloads.setLevel(level)


def read_initial_weights(path: str, network: Mapping[str, torch.Tensor]) -> InitialWeights:
    """Read a checkpoint of any form for a network.

    Args:
        network: the state dict of the network.

    Raises:
        NDSError: the file is missing or broken, would run code, or does not fit.
    """
    checkpoint = read_forms(path, KEY)
    backbone = _backbone(network)
    if _by_heuristics(path, checkpoint):
        state = _aligned(checkpoint, network)
    else:
        state = without_module_prefix(checkpoint.arrays)
    found = _found(state, network, backbone)
    fits = _ENOUGH * sum(not _UNCOUNTED.search(name) for name in backbone)
    if found and sum(not _UNCOUNTED.search(name) for name in found) >= fits:
        used = {name: state[name] for name in found}
        _refuse_broken(path, used)
        return InitialWeights(state, len(found), len(backbone), checkpoint.form, foreign=False)
    return _foreign(path, checkpoint, network, backbone, found)


def check_initial_weights(cfg: CN, weights: str) -> None:
    """See that a file fits the network of a config, and say what it is.

    Args:
        cfg: of the training that starts from the file.
        weights: a path, or a link.

    Raises:
        NDSError: it does not, or it is not there.
    """
    with torch.random.fork_rng(devices=[]):
        on_cpu = cfg.clone()
        on_cpu.defrost()
        on_cpu.MODEL.DEVICE = "cpu"
        network = build_model(on_cpu).state_dict()
    found = read_initial_weights(locate(weights), network)
    logger.info(
        "%s %s: %d of the backbone's %d weights are in it (form: %s)",
        *(KEY, weights, found.found, found.expected, found.form),
    )
    odd = _other_input(cfg) if found.foreign else ""
    if odd:
        logger.warning(
            "%s %s: networks of that form are mostly trained on RGB images, with their mean and standard deviation; "
            "this config differs: set %s.",
            *(KEY, weights, odd),
        )


def _other_input(cfg: CN) -> str:
    """The settings by which a config prepares images otherwise than torchvision's networks expect them."""
    wanted = []
    for name, value in _INPUT.items():
        node, leaf = name.split(".")
        own = cfg[node][leaf]
        same = (
            own == value
            if isinstance(value, str)
            else torch.allclose(torch.tensor(list(own)), torch.tensor(value), atol=0.1)
        )
        if not same:
            wanted.append(f"{name} {value}")
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH >= 50 and resnets.STRIDE_IN_1X1:
        wanted.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
    return ", ".join(wanted)


def _backbone(network: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the weights of a network's ResNet, without prefix counted; else of its whole backbone."""
    prefix = _resnet_prefix(network) or "backbone."
    names = [name for name in network if name.startswith(prefix) and not name.endswith(_COUNTER)]
    return names or [name for name in network if not name.endswith(_COUNTER)]


def _resnet_prefix(network: Mapping[str, torch.Tensor]) -> str | None:
    return next((name[: -len(_FIRST_BLOCK)] for name in network if name.endswith(_FIRST_BLOCK)), None)


def _by_heuristics(path: str, checkpoint: Checkpoint) -> bool:
    """Whether Detectron2 itself would match the names of a file: of its ImageNet models, of Caffe2, of pycls."""
    named_by_caffe2 = (
        str(path).endswith(".pkl") and "__author__" not in checkpoint.content and _of_caffe2(checkpoint)
    )
    return (
        named_by_caffe2 or str(path).endswith(".pyth") or bool(checkpoint.content.get("matching_heuristics"))
    )


def _of_caffe2(checkpoint: Checkpoint) -> bool:
    """Whether the names are Caffe2's: as the file says, or else because no name has a dot, as torch's do.

    Detectron2 takes every ``.pkl`` without an author for Caffe2's; its conversion garbles half of torch's names.
    """
    own = checkpoint.content.get("__author__")
    return own == "Caffe2" or (own is None and not any("." in name for name in checkpoint.arrays))


def _aligned(checkpoint: Checkpoint, network: Mapping[str, torch.Tensor]) -> State:
    arrays = {n: v for n, v in checkpoint.arrays.items() if not n.endswith(("_momentum", _COUNTER))}
    aligning = logging.getLogger(align_and_update_state_dicts.__module__)
    level = aligning.level
    aligning.setLevel(logging.WARNING)  # it logs a table of all weights
    try:
        return dict(align_and_update_state_dicts(dict(network), arrays, c2_conversion=_of_caffe2(checkpoint)))
    finally:
        aligning.setLevel(level)


def _found(state: State, network: Mapping[str, torch.Tensor], names: Sequence[str]) -> list[str]:
    return [name for name in names if name in state and state[name].shape == network[name].shape]


def _foreign(
    path: str,
    checkpoint: Checkpoint,
    network: Mapping[str, torch.Tensor],
    backbone: Sequence[str],
    direct: Sequence[str],
) -> InitialWeights:
    """The ResNet in a file of another maker, under the network's names."""
    prefix = _resnet_prefix(network)
    try:
        resnet = find_resnet(checkpoint.arrays, f"{KEY}: {path}")
    except NDSError:
        if len([n for n in checkpoint.arrays if n.endswith("layer1.0.conv1.weight")]) > 1:
            raise  # several of them: which is meant only the user knows
        raise _misfit(path, checkpoint, len(direct), len(backbone), _examples(checkpoint)) from None
    if prefix is None:
        raise _misfit(path, checkpoint, len(direct), len(backbone), "the network's backbone is no ResNet")
    state = {f"{prefix}{to_detectron2(name)}": value for name, value in resnet.trunk.items()}
    found = _found(state, network, backbone)
    lacking = [name for name in backbone if name not in found and not _OWN.search(name)]
    extra = [name for name in state if name not in network and not name.endswith(_COUNTER)]
    if lacking or extra:
        detail = _first_difference(lacking, extra, state, network)
        raise _misfit(path, checkpoint, len(found), len(backbone), detail)
    state = {name: value for name, value in state.items() if name in network}
    _refuse_broken(path, state)
    form = f"{checkpoint.form}, ResNet under {resnet.prefix}*" if resnet.prefix else checkpoint.form
    return InitialWeights(state, len(found), len(backbone), form, foreign=not resnet.folded)


def _first_difference(
    lacking: Sequence[str], extra: Sequence[str], state: State, network: Mapping[str, torch.Tensor]
) -> str:
    if not lacking:
        return f"{len(extra)} of its weights have no place in the network, first {extra[0]}"
    first = lacking[0]
    if first not in state:
        return f"{first} is not in the file"
    return f"{first} has shape {tuple(state[first].shape)}, in the network {tuple(network[first].shape)}"


def _examples(checkpoint: Checkpoint) -> str:
    if checkpoint.arrays:
        return f"it holds {', '.join(sorted(checkpoint.arrays)[:3])}, ..."
    keys = ", ".join(map(repr, list(checkpoint.content)[:3])) or "none"
    return f"no weights where they are looked for; its keys: {keys}"


def _misfit(path: str, checkpoint: Checkpoint, found: int, expected: int, detail: str) -> NDSError:
    return NDSError(
        f"{KEY}: {path} does not fit: {found} of the backbone's {expected} weights are in it with their shape (it "
        f"looks like {checkpoint.form}; {detail}): choose MODEL.BACKBONE and MODEL.RESNETS as the file has them, give "
        'another file, or MODEL.WEIGHTS "" to start from random weights.'
    )


def _refuse_broken(path: str, state: State) -> None:
    if (broken := broken_weight(state)) is not None:
        raise NDSError(f"{KEY}: {path}: {broken}: take another checkpoint.")
