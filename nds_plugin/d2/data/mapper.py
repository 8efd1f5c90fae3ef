"""From a dataset dict to a training example, for instances with and without masks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from detectron2.utils.file_io import PathManager

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_image


def read_image(path: str, image_format: str) -> npt.NDArray[Any]:
    """Detectron2's function of this name, by the reader of the whole package.

    Args:
        path: an image file, also one that Detectron2's PathManager fetches.
        image_format: as ``cfg.INPUT.FORMAT``.

    Returns:
        Array of shape (height, width, channels).

    Raises:
        ImageError: see :func:`nds_plugin.images.reading.load_image`.
    """
    if "://" in path:  # asked first, since PathManager takes its time
        try:
            path = PathManager.get_local_path(path)
        except OSError as error:
            raise ImageError(f"{path}: the image cannot be fetched ({error}).") from None
    if image_format == "BGR":
        return np.asarray(load_image(path))[:, :, ::-1]
    mode = "RGB" if image_format == "YUV-BT.601" else image_format
    return utils.convert_PIL_to_numpy(load_image(path, mode=mode), image_format)


def check_image(record: dict[str, Any], image: npt.NDArray[Any]) -> None:
    """See that an image has the size that its dict says; a dict that says none is told.

    Raises:
        ImageError: it has another one.
    """
    try:
        utils.check_image_size(record, image)
    except utils.SizeMismatchError:
        raise ImageError(
            f"{record.get('file_name')}: the image is {image.shape[1]}x{image.shape[0]}, its annotations say "
            f"{record.get('width')}x{record.get('height')}."
        ) from None


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

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See :class:`DatasetMapper`; a file that cannot be read raises :class:`ImageError`."""
        # The stock mapper has no place for another reader; Detectron2's turns a TIFF twice, makes 16 bits
        # white and takes a damaged PNG for whole.
        annotations = dataset_dict.get("annotations") if self.is_train else None
        mapped = copy.deepcopy({key: value for key, value in dataset_dict.items() if key != "annotations"})
        image = read_image(mapped["file_name"], self.image_format)
        check_image(mapped, image)
        regions = mapped.pop("sem_seg_file_name", None)
        aug_input = T.AugInput(
            image, sem_seg=None if regions is None else read_image(regions, "L").squeeze(2)
        )
        transforms = self.augmentations(aug_input)
        shape = aug_input.image.shape[:2]
        mapped["image"] = torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if aug_input.sem_seg is not None:
            mapped["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            utils.transform_proposals(mapped, shape, transforms, proposal_topk=self.proposal_topk)
        if annotations is not None:
            mapped["annotations"] = copy.deepcopy(annotations)
            self._transform_annotations(mapped, transforms, shape)
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
