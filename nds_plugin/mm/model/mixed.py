"""Mixed supervision in MMDetection: boxes beside masks, and sources that label different classes.

*Masks.* An object without a mask takes part in the losses of boxes; the mask loss is the stock one over the
proposals whose object has a mask.

*Classes.* Of sources that are joined each labels some of the classes. An object of a class that a source does
not label is in its images all the same, so that "no box here" says nothing about that class: the logits of the
other classes are left out of the softmax of an image's proposals and get no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS, TRANSFORMS

from nds_plugin.errors import NDSError
from nds_plugin.mm.data.identity import LABEL_SPACE


@TRANSFORMS.register_module()
class NDSLoadAnnotations(LoadAnnotations):
    """MMDetection's LoadAnnotations, to which an object without a mask has an empty one."""

    def _process_masks(self, results: dict[str, Any]) -> list[Any]:
        for instance in results.get("instances", ()):
            mask = instance.get("mask")
            if not mask:
                instance["mask"] = [[0.0] * 6]  # three corners of no area
        return list(super()._process_masks(results))


@dataclass(frozen=True)
class _Positives:
    """What the mask head reads of a sampling result, of some of its positive proposals."""

    pos_priors: torch.Tensor
    pos_assigned_gt_inds: torch.Tensor
    pos_gt_labels: torch.Tensor


@MODELS.register_module()
class NDSRoIHead(StandardRoIHead):
    """MMDetection's StandardRoIHead, with mixed supervision; without it the losses are the stock ones.

    Args:
        label_spaces: positions of the classes that each source labels; empty where each labels all.
        kwargs: see StandardRoIHead.

    Raises:
        NDSError: a head that shares its RoI features with the mask head.
    """

    def __init__(self, *args: Any, label_spaces: Sequence[Sequence[int]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.with_mask and self.share_roi_extractor:
            raise NDSError(
                "NDSRoIHead needs a mask_roi_extractor of its own: objects without a mask are taken out of it."
            )
        self._spaces: torch.Tensor | None = None
        allowed = None
        if label_spaces:
            allowed = torch.zeros(len(label_spaces), self.bbox_head.num_classes + 1, dtype=torch.bool)
            for row, classes in zip(allowed, label_spaces):
                row[list(classes)] = True
            allowed[:, -1] = True  # the background
        self.register_buffer("allowed_classes", allowed, persistent=False)

    def loss(self, x: Any, rpn_results_list: Any, batch_data_samples: Any) -> Any:
        """The stock losses, with each proposal's classes limited to those that its image's source labels."""
        if self.allowed_classes is None:
            return super().loss(x, rpn_results_list, batch_data_samples)
        spaces = [sample.metainfo[LABEL_SPACE] for sample in batch_data_samples]
        self._spaces = torch.tensor(spaces, device=self.allowed_classes.device)
        try:
            return super().loss(x, rpn_results_list, batch_data_samples)
        finally:
            self._spaces = None

    def _bbox_forward(self, x: Any, rois: torch.Tensor) -> dict[str, Any]:
        results: dict[str, Any] = super()._bbox_forward(x, rois)
        if self._spaces is not None:
            rows = self.allowed_classes[self._spaces[rois[:, 0].long()]]
            scores = results["cls_score"]
            results["cls_score"] = scores.masked_fill(~rows, torch.finfo(scores.dtype).min)
        return results

    def mask_loss(self, x: Any, sampling_results: Any, bbox_feats: Any, batch_gt_instances: Any) -> Any:
        """The stock loss over the proposals whose object has a mask."""
        kept = [_with_mask(found, gt) for found, gt in zip(sampling_results, batch_gt_instances)]
        return super().mask_loss(x, kept, bbox_feats, batch_gt_instances)


def _with_mask(found: Any, gt: Any) -> Any:
    if "masks" not in gt or len(gt) == 0:
        return found
    has_mask = np.asarray(gt.masks.areas) > 0
    if has_mask.all():
        return found
    of_object = found.pos_assigned_gt_inds
    kept = torch.as_tensor(has_mask, device=of_object.device)[of_object]
    return _Positives(found.pos_priors[kept], of_object[kept], found.pos_gt_labels[kept])
