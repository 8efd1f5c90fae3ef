"""From a dataset dict to a training example, for instances with and without masks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError


def why_unreadable(record: dict[str, Any], image_format: str | None) -> str | None:
    """Why a dataset dict's image file cannot be used; None if it can. Reads the file."""
    try:
        image = utils.read_image(record["file_name"], format=image_format)
        utils.check_image_size(dict(record), image)
    except FileNotFoundError:
        return "no such image file"
    except utils.SizeMismatchError:
        expected = f"{record.get('width')}x{record.get('height')}"
        return f"the image is {image.shape[1]}x{image.shape[0]}, its annotations say {expected}"
    except Exception as error:
        return f"the image cannot be read ({type(error).__name__}: {error})"
    return None


class _Recording(T.AugmentationList):
    """Augmentations that keep the transforms they applied last."""

    last: Any = None

    def __call__(self, aug_input: Any) -> Any:
        self.last = super().__call__(aug_input)
        return self.last


class NDSDatasetMapper(DatasetMapper):
    """The stock mapper, for boxes with and without masks and for joined label spaces.

    Beside the stock fields, ``instances`` gets

    * ``gt_has_mask``, bool (if masks are used at all): False for an instance without
      "segmentation", whose entry of ``gt_masks`` is empty and whose box is kept;
    * ``gt_label_space``, int64: the dict's "label_space" (default 0), see
      :mod:`nds_plugin.d2.model.roi_heads`.

    All other keys of the dict, such as "nds_cluster" and "nds_index", are passed through.

    Raises:
        ImageError: the image cannot be read or has another size than its annotations say.
        NDSError: an annotation cannot be used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        augmentations: Any = self.augmentations
        self.augmentations: Any = _Recording([augmentations])

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :class:`DatasetMapper`; a file that cannot be read raises :class:`ImageError`."""
        # Not every Detectron2 has a method of its own for the annotations: the stock mapper gets
        # the dict without them, and they follow the transforms that it applied.
        annotations = dataset_dict.get("annotations")
        try:
            mapped = super().__call__({k: v for k, v in dataset_dict.items() if k != "annotations"})
        except Exception as error:
            # The stock mapper reads, augments and converts in one go. Whether it was the file
            # is found out by reading it once more, which costs nothing unless something broke.
            cause = None if isinstance(error, NDSError) else why_unreadable(dataset_dict, self.image_format)
            if cause is None:
                raise
            raise ImageError(f"{dataset_dict.get('file_name')}: {cause}.") from error
        if self.is_train and annotations is not None:
            mapped["annotations"] = copy.deepcopy(annotations)
            self._transform_annotations(mapped, self.augmentations.last, tuple(mapped["image"].shape[1:]))
        return mapped

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        annotations = [a for a in dataset_dict.pop("annotations") if a.get("iscrowd", 0) == 0]
        has_mask = torch.tensor([bool(a.get("segmentation")) for a in annotations], dtype=torch.bool)
        try:
            instances = self._instances(annotations, transforms, image_shape)
        except (ValueError, KeyError, TypeError) as error:  # NDSError is a ValueError
            cause = error.__cause__ or error  # the stock function wraps the one that says more
            kinds = {KeyError: "no key ", TypeError: "a box or a polygon is not of numbers: "}
            raise NDSError(
                f"annotations of {dataset_dict.get('file_name')}: "
                f"{next((text for kind, text in kinds.items() if isinstance(cause, kind)), '')}{cause}"
            ) from error
        if self.use_instance_mask:
            instances.gt_has_mask = has_mask
            if self.recompute_boxes and len(annotations):
                tight = instances.gt_masks.get_bounding_boxes().tensor
                kept = instances.gt_boxes.tensor
                instances.gt_boxes = Boxes(torch.where(has_mask[:, None], tight.to(kept), kept))
        space = int(dataset_dict.get("label_space", 0))
        instances.gt_label_space = torch.full((len(instances),), space, dtype=torch.int64)
        dataset_dict["instances"] = _without_empty(instances)

    def _instances(
        self, annotations: list[dict[str, Any]], transforms: Any, image_shape: tuple[int, int]
    ) -> Instances:
        transformed = []
        for annotation in annotations:
            annotation = self._prepared(annotation)
            annotation = utils.transform_instance_annotations(
                annotation, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
            )
            if self.use_instance_mask and "segmentation" not in annotation:
                # An empty list of polygons is an empty PolygonMasks entry in every version.
                polygons = self.instance_mask_format == "polygon"
                annotation["segmentation"] = [] if polygons else np.zeros(image_shape, dtype=np.uint8)
            transformed.append(annotation)
        return utils.annotations_to_instances(transformed, image_shape, mask_format=self.instance_mask_format)

    def _prepared(self, annotation: dict[str, Any]) -> dict[str, Any]:
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        segmentation = annotation.get("segmentation")
        if not self.use_instance_mask or not segmentation:
            annotation.pop("segmentation", None)
        elif isinstance(segmentation, dict):
            if self.instance_mask_format == "polygon":
                raise NDSError(
                    "a mask is run-length encoded, polygons are expected: set INPUT.MASK_FORMAT bitmask."
                )
            if isinstance(segmentation.get("counts"), list):  # uncompressed, as COCO's own crowds
                annotation["segmentation"] = mask_util.frPyObjects(segmentation, *segmentation["size"])
        return annotation


def _without_empty(instances: Instances) -> Instances:
    """Drop empty boxes, and instances whose mask became empty; one that had none is kept."""
    if instances.has("gt_masks"):
        keep = instances.gt_masks.nonempty() | ~instances.gt_has_mask
        instances = instances[keep]
    return utils.filter_empty_instances(instances, by_mask=False)
