"""Whether fine-tuning can take over a pretrained detector: tried before any step, on weights without numbers."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from nds_plugin.errors import NDSError
from nds_plugin.job.transfer import transfer_state
from nds_plugin.mm.config.shape import SCOPE
from nds_plugin.mm.job.stage_configs import has_mask_head, may_lack, num_classes

_KNOWN = "transfer by class name knows the heads of Faster, Mask and Cascade R-CNN"
# Of other numbers, so that no layer which follows the classes has the same shape by chance.
_BEFORE, _AFTER = ("one", "two", "three"), ("three", "four", "one", "five", "six")


def check_transfer(pretraining: Config, finetuning: Config) -> None:
    """See that every part of the detector is copied as it is, or by the names of the classes.

    Raises:
        NDSError: a model that cannot be built, or one with layers of other kinds.
    """
    before = _weights(pretraining, len(_BEFORE), "nds.pretrain.")
    after = _weights(finetuning, len(_AFTER), "")
    try:
        transfer_state(before, after, _BEFORE, _AFTER, allow_missing=may_lack(has_mask_head(pretraining)))
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
        with torch.device("meta"):
            return dict(MODELS.build(model).state_dict())
    except Exception as error:  # of whatever a config says
        reason = " ".join(str(error).split())
        raise NDSError(f"{prefix}model cannot be built: {type(error).__name__}: {reason[:300]}") from None
