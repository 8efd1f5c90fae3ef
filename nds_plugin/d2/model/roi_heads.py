"""Heads for mixed supervision: boxes beside masks, and sources that label different classes.

*Masks.* An instance without a mask takes part in the box losses; the mask loss is the stock one
over the foreground instances that have a mask.

*Classes.* Sources are joined to one list of classes, of which each source labels some: its
**label space**. An object of a class that a source does not label is in its images all the same,
so that "no box here" says nothing about that class. The classification loss of a proposal
therefore knows only the classes that the image's source labels, and the background: the other
logits are left out of the softmax (or of the sigmoids) and get no gradient. An image that has no
instance left does not say whose it is; its proposals are negatives for the classes that *every*
source labels and for nothing else (our choice: always true, and the stock loss if there is one
label space).

What this cannot mend: the proposal network's objectness has no classes, so a proposal on an
unlabelled object is a negative there; and within the proposals, such a one still pushes the
background's logit up against those of the labelled classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from nds_plugin.d2.data.drawn_dataset import drawn_label_spaces
from nds_plugin.errors import NDSError


def label_space_table(label_spaces: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Which logits take part in the loss of a proposal of each label space.

    Args:
        label_spaces: for each label space, the indices of the classes that it labels.
        num_classes: foreground classes of the model.

    Returns:
        Bool, shape (num_label_spaces + 1, num_classes + 1). The last column is the background,
        always True; the last row, index -1, is the unknown label space: the classes that all
        the others share.

    Raises:
        NDSError: an index is out of range, or a class is in no label space.
    """
    table = torch.zeros(len(label_spaces) + 1, num_classes + 1, dtype=torch.bool)
    for row, classes in enumerate(label_spaces):
        wrong = [c for c in classes if not 0 <= c < num_classes]
        if wrong:
            raise NDSError(
                f"NDS.LABEL_SPACES[{row}] holds class index {wrong[0]}, the model has {num_classes} "
                "classes (MODEL.ROI_HEADS.NUM_CLASSES): indices are 0 to one less."
            )
        table[row, list(classes)] = True
    unlabelled = (~table[:-1, :-1].any(dim=0)).nonzero().flatten().tolist()
    if unlabelled:
        raise NDSError(
            f"classes {unlabelled[:10]} are in none of the {len(label_spaces)} NDS.LABEL_SPACES, so that "
            "nothing could train them: list every class in at least one label space."
        )
    table[-1] = table[:-1].all(dim=0)
    table[:, -1] = True
    return table


def _label_space_of_proposals(proposals: Sequence[Instances]) -> Tensor:
    rows = []
    for of_image in proposals:
        if of_image.has("gt_label_space"):
            rows.append(of_image.gt_label_space)
        elif of_image.has("gt_boxes"):
            raise NDSError(
                "instances without 'gt_label_space', though the sources label different classes: read the data with "
                "nds_plugin.d2.data.mapper.NDSDatasetMapper, or take StandardROIHeads, which know no label spaces."
            )
        else:  # the stock heads copy no ground truth to an image that has none
            rows.append(of_image.gt_classes.new_full((len(of_image),), -1))
    return torch.cat(rows)


def _label_spaces(cfg: Any) -> Sequence[Sequence[int]]:
    """``NDS.LABEL_SPACES``, else those of the drawn dataset that is trained on.

    Where its sources label alike, they label all classes that the model has.
    """
    if "NDS" in cfg and len(cfg.NDS.LABEL_SPACES):
        return list(cfg.NDS.LABEL_SPACES)
    try:
        found = drawn_label_spaces(cfg.DATASETS.TRAIN)
    except NDSError:  # its files are not here: nobody trains on it, the weights may be evaluated
        return []
    if any(set(space) != set(found[0]) for space in found):
        return found
    return [list(range(cfg.MODEL.ROI_HEADS.NUM_CLASSES))] * len(found)


class NDSFastRCNNOutputLayers(FastRCNNOutputLayers):
    """The stock layers, whose classification loss keeps to the label space of each proposal.

    ``label_spaces`` is a list of lists of class indices; proposals carry the index of theirs as
    ``gt_label_space`` (int64, -1 for unknown). An empty list, or label spaces that all hold all
    classes, give the stock losses.
    """

    @configurable
    def __init__(
        self, input_shape: Any, *, label_spaces: Sequence[Sequence[int]] = (), **kwargs: Any
    ) -> None:
        super().__init__(input_shape, **kwargs)
        self.num_label_spaces = len(label_spaces)
        table = label_space_table(label_spaces, self.num_classes) if len(label_spaces) else None
        if table is not None and bool(table.all()):
            table = None
        # Not persistent: a checkpoint holds the same keys as the stock model's.
        self.register_buffer("label_spaces", table, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """The stock arguments and ``NDS.LABEL_SPACES``, by default those of the drawn dataset."""
        return {**super().from_config(cfg, input_shape), "label_spaces": _label_spaces(cfg)}

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """The stock losses, after taking unlabelled classes out of the logits."""
        if self.label_spaces is None or not len(proposals):
            return super().losses(predictions, proposals)
        scores, deltas = predictions
        allowed = self._allowed_logits(proposals)
        # The lowest finite number, not -inf: exp() of it is 0 as well, and the sigmoid loss of
        # -inf would be NaN. masked_fill passes no gradient to what it fills.
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return super().losses((scores, deltas), proposals)

    def _allowed_logits(self, proposals: list[Instances]) -> Tensor:
        spaces = _label_space_of_proposals(proposals)
        num_spaces = len(self.label_spaces) - 1
        if spaces.numel() and int(spaces.max()) >= num_spaces:
            raise NDSError(
                f"an image has label space {int(spaces.max())}, NDS.LABEL_SPACES has {num_spaces}: set "
                "'label_space' of the dataset's images to the row of its classes."
            )
        allowed = self.label_spaces[spaces]
        classes = torch.cat([p.gt_classes for p in proposals])
        outside = ~allowed.gather(1, classes[:, None])[:, 0]
        if bool(outside.any()):
            first = int(outside.nonzero()[0, 0])
            raise NDSError(
                f"an instance of class {int(classes[first])} has label space {int(spaces[first])}, which "
                "does not hold that class: NDS.LABEL_SPACES or the dataset's 'label_space' is wrong."
            )
        return allowed


class NDSROIHeads(StandardROIHeads):
    """Standard heads that train on instances with and without masks, of several label spaces.

    ``MODEL.ROI_HEADS.NAME: NDSROIHeads``. Where all instances have masks and
    there is one label space, initialisation and losses equal those of ``StandardROIHeads``.
    In a LazyConfig, give :class:`NDSFastRCNNOutputLayers` as ``box_predictor``, with
    :func:`~nds_plugin.d2.data.drawn_dataset.drawn_label_spaces` of the dataset. Fields of the
    ground truth beside the stock ones: ``gt_has_mask`` (bool; without it, all have masks if
    ``gt_masks`` is there) and ``gt_label_space``.
    """

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        if len(_label_spaces(cfg)):
            stock = arguments["box_predictor"]
            # Same initial weights, and the same random numbers left for the layers to come.
            with torch.random.fork_rng(devices=[]):
                predictor = NDSFastRCNNOutputLayers(cfg, arguments["box_head"].output_shape)
            predictor.load_state_dict(stock.state_dict())
            arguments["box_predictor"] = predictor
        return arguments

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        if self.training and not getattr(self.box_predictor, "num_label_spaces", 0):
            _refuse_label_spaces(proposals)
        return super()._forward_box(features, proposals)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if self.training and self.mask_on:
            instances = [_with_masks(of_image) for of_image in instances]
        return super()._forward_mask(features, instances)


def _refuse_label_spaces(proposals: Sequence[Instances]) -> None:
    """See that no image says that it is of a second label space, for heads that were told of none.

    Raises:
        NDSError: one does.
    """
    spaces = [p.gt_label_space for p in proposals if p.has("gt_label_space")]
    if spaces and bool((torch.cat(spaces) > 0).any()):
        raise NDSError(
            "the images are of several label spaces, of which the heads were told nothing: what one source does not "
            "label would be trained as background. Name the drawn dataset in DATASETS.TRAIN, or set NDS.LABEL_SPACES; "
            "in a LazyConfig give NDSFastRCNNOutputLayers label_spaces=drawn_label_spaces(dataset)."
        )


def _with_masks(proposals: Instances) -> Instances:
    """The proposals whose ground truth has a mask; those of an image without instances stay."""
    if proposals.has("gt_has_mask"):
        return proposals[proposals.gt_has_mask.nonzero().squeeze(1)]
    if proposals.has("gt_boxes") and not proposals.has("gt_masks"):
        return proposals[:0]
    return proposals


if "NDSROIHeads" not in ROI_HEADS_REGISTRY:  # the module may be imported again under another name
    ROI_HEADS_REGISTRY.register(NDSROIHeads)
