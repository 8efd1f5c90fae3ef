"""Any network of timm with FPN: ``MODEL.BACKBONE.NAME build_timm_fpn_backbone``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode as CN
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import nn

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.images.input_form import InputForm
from nds_plugin.images.timm_networks import build_timm, cause_of, input_form, load_timm, require_timm

NAME = "build_timm_fpn_backbone"
KEY, HUB = "MODEL.TIMM.WEIGHTS", "hub"  # hub: timm's own
NORMS = ("FrozenBN", "BN", "SyncBN")
_TAKE = "take a network without a fixed size of images, such as a ResNet, an EfficientNet or a ConvNeXt."
PIXEL_TOLERANCE = 0.01  # of a standard deviation, and of a mean in standard deviations


class TimmBackbone(Backbone):
    """The maps of a network of timm, by Detectron2's names: ``res2`` of stride 4 to ``res5`` of stride 32.

    Args:
        name: timm's.
        weights: to start from, see ``MODEL.TIMM.WEIGHTS``.
        norm: one of ``NORMS``.
        out_features: the maps to give.
        freeze_at: stages that do not learn; their batch norms are frozen, too.

    Raises:
        NDSError: no timm, an unknown network, one without such maps, or weights of another.
    """

    def __init__(
        self, name: str, weights: str, norm: str, out_features: Sequence[str], freeze_at: int = 0
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown_name("MODEL.TIMM.NORM", norm, NORMS)
        body = _maps_of(name)
        indices = _indices(body, name, out_features)
        self.body = _maps_of(name, out_indices=sorted(indices.values()))
        self._channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"  # Swin's
        if weights:
            _start_from(self.body, name, "" if weights == HUB else weights)
        if norm == "FrozenBN":
            self.body = _frozen_norms(self.body)
        elif norm == "SyncBN":
            self.body = require_timm(name).layers.convert_sync_batchnorm(self.body)
        _freeze(self.body, body.feature_info, freeze_at)
        self._out_features = sorted(indices, key=indices.__getitem__)
        info: Any = self.body.feature_info
        self._out_feature_strides = dict(zip(self._out_features, info.reduction()))
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Normalised images (B, 3, H, W) to the maps by name."""
        # timm's networks are fastest in this layout, on GPUs and on CPUs; what follows keeps it.
        maps = self.body(inputs.contiguous(memory_format=torch.channels_last))
        if self._channels_last:
            maps = [found.permute(0, 3, 1, 2) for found in maps]
        return dict(zip(self._out_features, maps))


def _maps_of(name: str, **options: Any) -> nn.Module:
    """A network of timm that gives its maps, of images of any size where it has a choice."""
    try:
        return build_timm(name, features_only=True, strict_img_size=False, **options)
    except NDSError:  # most know no such option
        return build_timm(name, features_only=True, **options)


def _indices(body: nn.Module, name: str, out_features: Sequence[str]) -> dict[str, int]:
    """Position among timm's maps of each map that is asked for."""
    info: Any = body.feature_info
    strides: list[int] = info.reduction()
    found = {f"res{stride.bit_length() - 1}": i for i, stride in enumerate(strides)}
    if len(found) < len(strides):
        raise NDSError(
            f"MODEL.TIMM.NAME {name!r} gives maps of strides {strides}, no pyramid: take a network whose maps shrink."
        )
    missing = [feature for feature in out_features if feature not in found]
    if missing or not out_features:
        raise NDSError(
            f"MODEL.TIMM.OUT_FEATURES {list(out_features)}: {name!r} gives {', '.join(found)} (strides {strides})."
        )
    return {feature: found[feature] for feature in out_features}


def _start_from(body: nn.Module, name: str, weights: str) -> None:
    """Copy the weights of the whole network into its part that gives maps, whose names timm may have joined."""
    whole = {
        key.replace(".", "_"): value for key, value in load_timm(name, weights, KEY, KEY).state_dict().items()
    }
    state = {}
    for key in body.state_dict():
        flat = key.replace(".", "_")
        value = whole.get(flat, whole.get(flat.removeprefix("model_")))
        if value is None:
            raise NDSError(
                f"MODEL.TIMM.NAME {name!r}: timm's maps of it have weights of other names, first {key!r}."
            )
        state[key] = value
    body.load_state_dict(state)


def _frozen_norms(module: nn.Module) -> nn.Module:
    # timm's own: its batch norms hold the activation, too, which Detectron2's conversion would drop.
    found: Any = importlib.import_module("timm.utils.model")
    return found.freeze_batch_norm_2d(module)


def _freeze(body: nn.Module, info: Any, freeze_at: int) -> None:
    """Stop the learning of all that leads to the map of stride 2 ** freeze_at; of nothing at 0."""
    if freeze_at < 1:  # a network may have a map of stride 1
        return
    stages = [
        name
        for name, stride in zip(info.module_name(), info.reduction())
        if stride.bit_length() - 1 <= freeze_at
    ]
    if not stages:
        return
    flat = [name.replace(".", "_") for name in _ends(stages[-1])]
    names = [name for name, _ in body.named_modules()]
    inside = [i for i, name in enumerate(names) if _is_within(name.replace(".", "_"), flat)]
    if not inside:
        raise NDSError(
            f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: the network has no part {stages[-1]!r} that ends at stride "
            f"{2**freeze_at}, so that its first stages cannot be frozen: set MODEL.BACKBONE.FREEZE_AT 0."
        )
    for name in names[1 : inside[-1] + 1]:
        module = body.get_submodule(name)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, last = name.rpartition(".")
            setattr(body.get_submodule(parent), last, _frozen_norms(module))


def _ends(stage: str) -> list[str]:
    return [stage, f"model.{stage}"]


def _is_within(name: str, stages: Sequence[str]) -> bool:
    return any(name == stage or name.startswith(f"{stage}_") for stage in stages)


def check_pixels(cfg: CN, form: InputForm) -> None:
    """Refuse images that are prepared in another way than the network's weights expect.

    Raises:
        NDSError: another order of the colours, mean or deviation; the right values are told.
    """
    mean, std = ([255 * value for value in values] for values in (form.mean, form.std))
    close = all(
        abs(a - b) <= PIXEL_TOLERANCE * s
        for given, wanted in ((cfg.MODEL.PIXEL_MEAN, mean), (cfg.MODEL.PIXEL_STD, std))
        for a, b, s in zip(given, wanted, std)
    )
    if form.order != cfg.INPUT.FORMAT or not close:
        told = [[round(value, 3) for value in values] for values in (mean, std)]
        raise NDSError(
            f"the weights of {cfg.MODEL.TIMM.NAME!r} expect INPUT.FORMAT {form.order}, MODEL.PIXEL_MEAN {told[0]} and "
            f"MODEL.PIXEL_STD {told[1]}, got {cfg.INPUT.FORMAT}, {list(cfg.MODEL.PIXEL_MEAN)} and "
            f"{list(cfg.MODEL.PIXEL_STD)}: set these."
        )


def without_initial_weights(cfg: CN) -> CN:
    """The config of a detector all of whose weights are loaded from elsewhere: MODEL.TIMM.WEIGHTS need not be there.

    Raises:
        NDSError: see :func:`check_pixels`.
    """
    if cfg.MODEL.BACKBONE.NAME != NAME or not cfg.MODEL.TIMM.WEIGHTS:
        return cfg
    check_pixels(cfg, input_form(cfg.MODEL.TIMM.NAME))
    result = cfg.clone()
    result.defrost()
    result.MODEL.TIMM.WEIGHTS = ""
    return result


def check_maps(backbone: FPN, name: str) -> None:
    """Refuse a network that does not take images of any size, or whose maps have not the sizes that it says.

    Args:
        backbone: as :func:`build_timm_fpn_backbone` builds it; it is put into eval mode.
        name: timm's.

    Raises:
        NDSError: it cannot stand under a pyramid.
    """
    backbone.eval()
    network: Any = backbone.bottom_up
    shapes = network.output_shape()
    for sides in ((3, 5), (4, 6)):
        height, width = (side * backbone.size_divisibility for side in sides)
        images = torch.zeros(1, 3, height, width, device=next(backbone.parameters()).device)
        try:
            with torch.no_grad():
                found = {key: tuple(value.shape[1:]) for key, value in network(images).items()}
        except (RuntimeError, AssertionError, ValueError) as error:
            raise NDSError(f"{_refused(name, height, width)} ({cause_of(error)}): {_TAKE}") from None
        for key, shape in shapes.items():
            expected = (shape.channels, height // shape.stride, width // shape.stride)
            if found[key] != expected:
                raise NDSError(
                    f"{_refused(name, height, width)} ({key} is {found[key]}, expected {expected}): {_TAKE}"
                )


def _refused(name: str, height: int, width: int) -> str:
    return f"MODEL.TIMM.NAME {name!r} gives no pyramid of images of {height} x {width} pixels"


def build_timm_fpn_backbone(cfg: CN, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME`` for a network of timm with FPN; its keys: ``d2/config/timm_nodes.py``.

    Raises:
        NDSError: see :class:`TimmBackbone` and :func:`check_pixels`; or images of other than three channels.
    """
    timm = cfg.MODEL.TIMM
    if input_shape.channels != 3:
        raise NDSError(f"{NAME} takes images of three channels, got {input_shape.channels}.")
    if timm.WEIGHTS:  # random weights expect nothing
        check_pixels(cfg, input_form(timm.NAME))
    bottom_up = TimmBackbone(
        timm.NAME, timm.WEIGHTS, timm.NORM, timm.OUT_FEATURES, cfg.MODEL.BACKBONE.FREEZE_AT
    )
    unknown = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in timm.OUT_FEATURES]
    if unknown:
        raise NDSError(f"MODEL.FPN.IN_FEATURES: {unknown[0]!r} is not among MODEL.TIMM.OUT_FEATURES.")
    fpn = FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    return fpn.to(memory_format=torch.channels_last)


if NAME not in BACKBONE_REGISTRY:  # the module may be imported again under another name
    BACKBONE_REGISTRY.register(build_timm_fpn_backbone)
