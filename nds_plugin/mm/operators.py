"""MMCV's compiled operators, and torchvision's in their place where they are missing.

MMDetection's models import ``mmcv._ext`` at once, which the lite builds of MMCV do not have. What a
Mask R-CNN needs of it, torchvision has too, with the same results.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

import torch
import torchvision

from nds_plugin.errors import NDSError
from nds_plugin.extras import needed_for

logger = logging.getLogger(__name__)

_NAME = "mmcv._ext"
_AVERAGE = 1  # mmcv's number of this pooling
_WHERE = "mmcv with compiled operators (https://mmcv.readthedocs.io/en/latest/get_started/installation.html)"


def require_mmdet() -> None:
    """See that MMDetection can be imported, and import it.

    Raises:
        NDSError: a package is missing, MMDetection refuses the MMCV that is installed, or operators are missing.
    """
    with needed_for("the MMDetection side of nds_plugin"):
        import mmcv
        import mmengine  # noqa: F401
    if not has_operators():
        raise NDSError(
            f"mmcv {mmcv.__version__} is installed without its compiled operators, which MMDetection imports: call "
            "nds_plugin.mm.use_torchvision_operators() first, or add 'nds_plugin.mm.with_torchvision_operators' to the "
            "config's custom_imports (what Mask R-CNN and Faster R-CNN need, by torchvision; other operators raise when "
            f"they are called); or install {_WHERE}."
        )
    try:
        with needed_for("the MMDetection side of nds_plugin"):
            import mmdet  # noqa: F401
    except AssertionError as error:  # how mmdet says which versions it wants
        raise NDSError(
            f"MMDetection refuses the packages beside it: {' '.join(str(error).split())}"
        ) from None


def has_operators() -> bool:
    """Whether ``mmcv._ext`` can be imported: MMCV's own, or the stand-in."""
    try:
        return importlib.util.find_spec(_NAME) is not None
    except ModuleNotFoundError:  # no mmcv
        return False


def is_active() -> bool:
    """Whether torchvision's operators stand in."""
    return isinstance(sys.modules.get(_NAME), _TorchvisionOperators)


def use_torchvision_operators() -> bool:
    """Let torchvision's operators stand in for MMCV's where those are missing; before ``import mmdet``.

    One line is logged where they do. Nothing happens where MMCV has its own.

    Returns:
        Whether they stand in.

    Raises:
        NDSError: MMCV is not installed.
    """
    if is_active():
        return True
    with needed_for("the MMDetection side of nds_plugin"):
        import mmcv
    if has_operators():
        return False
    sys.modules[_NAME] = _TorchvisionOperators(_NAME)
    logger.info(
        "mmcv %s has no compiled operators: nms and roi_align (average) are torchvision's; all others raise when called.",
        mmcv.__version__,
    )
    return True


class _TorchvisionOperators(types.ModuleType):
    """The module that stands for ``mmcv._ext``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.nms = _nms
        self.roi_align_forward = _roi_align_forward
        self.roi_align_backward = _roi_align_backward

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise NDSError(
                f"the operator {name} of mmcv is not there: torchvision stands in for nms and roi_align (average pooling) "
                f"alone. Install {_WHERE}."
            )

        return missing


def _nms(bboxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    if offset:  # boxes whose right and lower pixels belong to them
        bboxes = torch.cat([bboxes[:, :2], bboxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(bboxes, scores, iou_threshold)


def _roi_align_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    del argmax_y, argmax_x
    _check_pooling(pool_mode)
    kind = _computed(input.dtype)
    pooled = torch.ops.torchvision.roi_align(
        input.to(kind), rois.to(kind), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def _roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    del argmax_y, argmax_x
    _check_pooling(pool_mode)
    kind = _computed(grad_output.dtype)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(kind),
            rois.to(kind),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _check_pooling(pool_mode: int) -> None:
    if pool_mode != _AVERAGE:
        raise NDSError(
            f"RoIAlign with pool_mode 'max' is not in torchvision: use 'avg', or install {_WHERE}."
        )


def _computed(kind: torch.dtype) -> torch.dtype:
    """The type that torchvision computes in: it has no kernels for bf16, nor for fp16 on CPUs."""
    return torch.float32 if kind in (torch.bfloat16, torch.float16) else kind
