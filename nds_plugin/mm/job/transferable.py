"""Whether fine-tuning can take over a pretrained detector: tried before any training, on weights without numbers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from nds_plugin.errors import NDSError, few
from nds_plugin.job.transfer import UNKNOWN_ROWS, transfer_state
from nds_plugin.mm.config.shape import SCOPE
from nds_plugin.mm.job.stage_configs import has_mask_head, may_lack, num_classes

_KNOWN = (
    "transfer by class name knows the heads of Faster, Mask and Cascade R-CNN (PointRend's and Mask Scoring R-CNN's need the "
    "same classes, in the same order)"
)


def check_transfer(
    pretraining: Config, finetuning: Config, source: Sequence[str], target: Sequence[str]
) -> None:
    """See that every part of the detector is copied as it is, or by the names of the classes.

    Args:
        source, target: the classes of pretraining and of fine-tuning.

    Raises:
        NDSError: a model that cannot be built, or one with layers of other kinds.
    """
    before = _weights(pretraining, len(source), "nds.pretrain.")
    after = _weights(finetuning, len(target), "")
    if len(source) == len(target) and list(source) != list(target):
        # With one class more no layer that follows the classes has the same shape by chance.
        more = [*target, "\0"]
        with contextlib.suppress(NDSError):  # of a loss that knows its number of classes
            after, target = _weights(finetuning, len(more), ""), more
    try:
        allowed = may_lack(has_mask_head(pretraining))
        _, report = transfer_state(before, after, source, target, allow_missing=allowed)
        if unknown := [name for name, reason in report.dropped.items() if reason == UNKNOWN_ROWS]:
            raise NDSError(f"{few(unknown)} {UNKNOWN_ROWS}.")
    except NDSError as error:
        raise NDSError(
            f"fine-tuning cannot take over the pretrained detector: {str(error).rstrip('.')}; {_KNOWN}, and model.roi_head is "
            f"{finetuning.model.roi_head.type}."
        ) from None


def _weights(cfg: Config, count: int, prefix: str) -> dict[str, torch.Tensor]:
    """The weights of a stage's model with so many classes, without numbers."""
    model = copy.deepcopy(cfg.model)
    for name in num_classes(model, count):
        raise NDSError(
            f"{prefix}model.roi_head.{name} has classes of its own, and {_KNOWN}: take a roi_head without it."
        )
    init_default_scope(SCOPE)
    try:
        state: dict[str, torch.Tensor] = _built(model).state_dict()
    except Exception as error:  # of whatever a config says
        reason = " ".join(str(error).split())[:300]
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise NDSError(f"{prefix}model cannot be built: {said}") from None
    return {name: value.to("meta") for name, value in state.items()}


def _built(model: Any) -> Any:
    """The model before ``init_weights``, which alone would load what ``init_cfg`` names."""
    # Some backbones, as Swin's, read numbers while they are made: those are built on the CPU.
    with contextlib.suppress(Exception), torch.device("meta"):
        return MODELS.build(copy.deepcopy(model))
    with torch.random.fork_rng(devices=[]):
        return MODELS.build(model)
