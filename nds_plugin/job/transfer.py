"""From a pretrained detector to one of other classes: what is copied, by which class name.

Backbone, proposal network and heads are copied as they are. The class-specific rows of the last
layers (of scores, boxes and masks; of standard and of cascade heads, as Detectron2 and as MMDetection
name them) go from a source class to the target class of the same name; a target class without a source
keeps the model's own initialisation (our choice), and the background's row is always copied. A
layer of another head that may have rows per class, and has as many, is not copied where the classes differ. Nothing
happens silently: the report lists all of it, and whatever else is missing or has another shape is an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nds_plugin.errors import NDSError, few
from nds_plugin.files.checkpoints import read_checkpoint, without_module_prefix
from nds_plugin.job.transfer_report import TransferReport
from nds_plugin.source.class_names import ClassMatch, match_classes

logger = logging.getLogger(__name__)

# Detectron2's names, then MMDetection's. In both the background is the last row of the scores.
_CLS_SCORE = re.compile(
    r"(^|\.)(box_predictor(\.\d+)?\.cls_score|roi_head\.bbox_head(\.\d+)?\.fc_cls)\.(weight|bias)$"
)
_BBOX_PRED = re.compile(
    r"(^|\.)(box_predictor(\.\d+)?\.bbox_pred|roi_head\.bbox_head(\.\d+)?\.fc_reg)\.(weight|bias)$"
)
_MASK = re.compile(r"(^|\.)(mask_head\.predictor|roi_head\.mask_head(\.\d+)?\.conv_logits)\.(weight|bias)$")
# Of heads that are not known here: what a row stands for cannot be told, only that it may be a class.
_PERHAPS_CLASSES = re.compile(
    r"(^|\.)(cls_score|cls_logits|logits|predictor|class_embed|fc_cls|conv_cls|retina_cls|conv_logits|fc_logits|fc_mask_iou)"
    r"(\.\d+)?\.(weight|bias)$"
)
UNKNOWN_ROWS = "may have rows per class, of a head that is not known"
_WITHOUT_CLASSES = ("backbone.", "neck.", "rpn_head.", "proposal_generator.")  # copied as they are
_CASCADE = re.compile(r"(box_predictor|bbox_head)\.\d+\.")
# Set from the config or the code, whatever the checkpoint says; or, for the last, a counter
# that frozen normalisation layers lack.
_NOT_LEARNED = re.compile(r"(^|\.)(pixel_mean|pixel_std|num_batches_tracked|cell_anchors\.\d+)$")
_BOX = 4


def transfer_state(
    source_state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    source_classes: Sequence[str],
    target_classes: Sequence[str],
    *,
    allow_missing: Sequence[str] = (),
    loose: bool = False,
    require_shared: bool = False,
) -> tuple[dict[str, Tensor], TransferReport]:
    """The model's state after taking over what the source has. Pure: no argument is changed.

    Args:
        source_state: state dict of the pretrained model; a "module." prefix is dropped.
        model_state: state dict of the freshly initialised model.
        source_classes: names behind the source's class-specific rows, in order.
        target_classes: names behind the model's, in order.
        allow_missing: prefixes of parameters that the source need not have, such as
            "roi_heads.mask_head." after pretraining without masks.
        loose: let near classes stand in, see :mod:`nds_plugin.source.class_names`.
        require_shared: refuse to go on if no class is shared.

    Returns:
        A state dict with all keys of ``model_state``, and the report.

    Raises:
        NDSError: parameters are missing or have other shapes; a list of classes does not fit
            its state; or ``require_shared`` and no class is shared.
    """
    source_state = without_module_prefix(source_state)
    matches = match_classes(source_classes, target_classes, loose=loose)
    report = TransferReport(tuple(source_classes), tuple(target_classes), tuple(matches))
    if require_shared and not report.shared:
        raise NDSError(f"{report.nothing_shared()}: check both lists, or allow it (require_shared off).")
    rows = _class_rows(matches, source_classes)
    others = list(source_classes) != list(target_classes)
    new_state: dict[str, Tensor] = {}
    mismatched: list[str] = []
    absent: list[str] = []
    for name, own in model_state.items():
        value = source_state.get(name)
        new_state[name] = own.detach().clone()
        if _NOT_LEARNED.search(name):
            continue
        if value is None:
            allowed = any(name.startswith(prefix) for prefix in allow_missing)
            (report.missing if allowed else absent).append(name)
        elif _class_specific(name, value, len(source_classes), own, len(target_classes)):
            _copy_rows(name, value, new_state[name], rows, len(source_classes), report)
        elif value.shape == own.shape and others and _of_unknown_rows(name):
            report.dropped[name] = UNKNOWN_ROWS
        elif value.shape == own.shape:
            new_state[name] = value.detach().to(own.dtype, copy=True)
            report.kept.append(name)
        elif (_BBOX_PRED.search(name) or _MASK.search(name)) and value.shape[1:] == own.shape[1:]:
            report.dropped[name] = f"{len(value)} rows, {len(own)} in the model: only one has rows per class"
        else:
            mismatched.append(f"{name} {tuple(value.shape)} instead of {tuple(own.shape)}")
    _refuse(absent, mismatched)
    for name in source_state:
        if name not in model_state and not _NOT_LEARNED.search(name):
            report.dropped[name] = "not in the model"
    return new_state, report


def transfer_checkpoint(
    model: nn.Module,
    path: str,
    target_classes: Sequence[str],
    *,
    source_classes: Sequence[str] | None = None,
    allow_missing: Sequence[str] = (),
    loose: bool = False,
    require_shared: bool = False,
) -> TransferReport:
    """Initialise a model from a checkpoint file by :func:`transfer_state`, and log the report.

    Args:
        model: an R-CNN, also inside DistributedDataParallel.
        path: a checkpoint that holds its state dict under "model" (Detectron2) or "state_dict" (MMDetection).
        source_classes: by default those that the checkpoint names.

    Raises:
        NDSError: see :func:`transfer_state`; or the file is broken or holds no class names.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("model") or checkpoint.get("state_dict") or checkpoint
    if source_classes is None:
        source_classes = checkpoint_classes(checkpoint)
    if not source_classes:
        raise NDSError(f"{path} does not say which classes it was trained on: give source_classes.")
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    new_state, report = transfer_state(
        state,
        inner.state_dict(),
        source_classes,
        target_classes,
        allow_missing=allow_missing,
        loose=loose,
        require_shared=require_shared,
    )
    inner.load_state_dict(new_state)
    report.log(logger, path)
    return report


def checkpoint_classes(checkpoint: Mapping[str, Any]) -> list[str]:
    """Names of the classes that a checkpoint was trained on; empty where it does not say."""
    said = checkpoint.get("extra", {}).get("thing_classes")
    return list(said or checkpoint.get("meta", {}).get("dataset_meta", {}).get("classes") or ())


def _class_rows(matches: Sequence[ClassMatch], source_classes: Sequence[str]) -> list[tuple[int, int]]:
    position = {name: i for i, name in reversed(list(enumerate(source_classes)))}
    return [(t, position[m.source]) for t, m in enumerate(matches) if m.source is not None]


def _class_specific(name: str, value: Tensor, num_source: int, own: Tensor, num_target: int) -> bool:
    """Whether both tensors have rows per class; a class-agnostic layer has those of one class."""
    if _CLS_SCORE.search(name):
        _check_rows(name, value, num_source + 1, "checkpoint", num_source)
        _check_rows(name, own, num_target + 1, "model", num_target)
        return value.shape[1:] == own.shape[1:]
    per_class = _BOX if _BBOX_PRED.search(name) else 1 if _MASK.search(name) else 0
    if not per_class:
        return False
    kinds = []
    for tensor, count, where in ((value, num_source, "checkpoint"), (own, num_target, "model")):
        agnostic = len(tensor) == per_class and (count != 1 or bool(_CASCADE.search(name)))
        if not agnostic:
            _check_rows(name, tensor, per_class * count, where, count)
        kinds.append(not agnostic)
    # Of one class on either side, the layer may be either; then it is what the other one is.
    return kinds[0] and kinds[1] and value.shape[1:] == own.shape[1:]


def _of_unknown_rows(name: str) -> bool:
    """Whether a layer may be class-specific in a way that is not known."""
    known = any(pattern.search(name) for pattern in (_CLS_SCORE, _BBOX_PRED, _MASK))
    return not known and not name.startswith(_WITHOUT_CLASSES) and bool(_PERHAPS_CLASSES.search(name))


def _check_rows(name: str, tensor: Tensor, expected: int, where: str, count: int) -> None:
    if len(tensor) != expected:
        raise NDSError(
            f"{name} of the {where} has {len(tensor)} rows, its {count} classes need {expected}: the list of "
            "classes is not the one it was made for."
        )


def _copy_rows(
    name: str,
    value: Tensor,
    out: Tensor,
    rows: Sequence[tuple[int, int]],
    num_source: int,
    report: TransferReport,
) -> None:
    per_class = _BOX if _BBOX_PRED.search(name) else 1
    with torch.no_grad():
        for target, source in rows:
            out[target * per_class : (target + 1) * per_class] = value[
                source * per_class : (source + 1) * per_class
            ].to(out)
        if _CLS_SCORE.search(name):
            out[-1] = value[num_source].to(out)  # the background
    report.mapped.append(name)


def _refuse(absent: Sequence[str], mismatched: Sequence[str]) -> None:
    problems = []
    if absent:
        problems.append(f"{len(absent)} parameters are not in the checkpoint: {few(absent, 8)}")
    if mismatched:
        problems.append(f"{len(mismatched)} have another shape: {few(mismatched, 8)}")
    if problems:
        raise NDSError(
            f"the checkpoint does not fit the model: {'; '.join(problems)}; train both with the same "
            "MODEL config, or name what may be missing (allow_missing)."
        )
