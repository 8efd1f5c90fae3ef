"""COCO-style and VOC evaluation of registered datasets, and the check that their ground truth can be used."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils.file_io import PathManager

from nds_plugin.d2.data.ground_truth import annotation_counts, write_ground_truth
from nds_plugin.d2.data.registration import check_registered, dataset_classes, dataset_dicts
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.d2.train.voc_evaluation import VOCEvaluator
from nds_plugin.datasets.coco.truth import CocoTruth, read_truth
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import atomic_write

logger = logging.getLogger(__name__)

EVALUATOR_TYPES = ("coco", "pascal_voc")


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str] | None = None
) -> DatasetEvaluator:
    """The evaluator of a dataset, chosen by ``evaluator_type`` in its metadata ("coco" if unset).

    COCO style: box AP, and mask AP where ``cfg.MODEL.MASK_ON`` and every annotation of the dataset
    has a mask; the official pycocotools, so that no compiled extension is needed. A dataset that is
    a COCO file is evaluated against that file: boxes that leave their image or have no area count
    there as the file has them. What pycocotools needs and the file lacks is completed in a copy
    (:mod:`nds_plugin.datasets.coco.truth`). VOC style: box AP by both definitions
    (:mod:`nds_plugin.d2.train.voc_evaluation`); Detectron2's own evaluator for datasets without a store.

    Args:
        output_folder: where predictions go, and the COCO form of datasets that are no COCO file;
            default ``OUTPUT_DIR/inference``.

    Raises:
        NDSError: unknown dataset or evaluator type, files missing, or ground truth that cannot be
            evaluated on.
    """
    if _evaluator_type(dataset_name) == "pascal_voc":
        return _voc_evaluator(dataset_name)
    folder = os.fspath(output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))
    truth = _coco_truth(dataset_name)
    masks = cfg.MODEL.MASK_ON and _has_masks(dataset_name, truth)
    options: dict[str, Any] = {"output_dir": folder, "use_fast_impl": False}
    options["tasks"] = ("bbox", "segm") if masks else ("bbox",)
    if "allow_cached_coco" in inspect.signature(COCOEvaluator.__init__).parameters:
        options["allow_cached_coco"] = False  # another subset may have been converted there
    with _coco_file(dataset_name, truth, folder):
        return COCOEvaluator(dataset_name, **options)


def _coco_truth(name: str) -> CocoTruth | None:
    """The ground truth of a dataset that is a COCO file; None for others."""
    json_file = MetadataCatalog.get(name).get("json_file")
    if not json_file:
        return None
    dicts = dataset_dicts(name)

    @functools.cache
    def positions() -> dict[str, int]:
        if isinstance(dicts, StoreDataset):
            return {image_id: i for i, image_id in enumerate(dicts.image_ids().to_pylist())}
        return {str(record["image_id"]): i for i, record in enumerate(dicts)}

    def size_of(image_id: Any) -> tuple[int, int]:
        record = dicts[positions()[str(int(image_id) if isinstance(image_id, float) else image_id)]]
        return record["width"], record["height"]

    return read_truth(PathManager.get_local_path(str(json_file)), size_of)


@contextlib.contextmanager
def _coco_file(name: str, truth: CocoTruth | None, folder: str) -> Iterator[None]:
    """For the length of a block, the metadata of a dataset name a COCO file that can be evaluated on, or may
    be set to."""
    metadata = MetadataCatalog.get(name)
    before = metadata.get("json_file")
    path = os.path.join(folder, f"{name}_coco_format.json")
    if truth is not None and truth.changes:
        logger.warning(
            "dataset %r is evaluated against %s, a copy with %s.", name, path, "; ".join(truth.changes)
        )
        with atomic_write(path, "w") as file:
            json.dump(truth.document, file)
        metadata.__dict__["json_file"] = path
    elif truth is None and isinstance(dicts := dataset_dicts(name), StoreDataset):
        write_ground_truth(dicts, name, path)
        metadata.json_file = path
    try:
        yield
    finally:  # the next evaluator may write into another folder
        if before is not None:
            metadata.__dict__["json_file"] = before
        else:
            metadata.__dict__.pop("json_file", None)


def check_ground_truth(dataset_name: str) -> None:
    """See that a dataset can be evaluated on, before anything is trained for it.

    Raises:
        NDSError: see :func:`build_evaluator`.
    """
    if _evaluator_type(dataset_name) == "pascal_voc":
        _voc_evaluator(dataset_name)
    else:
        truth = _coco_truth(dataset_name)
        _has_masks(dataset_name, truth)
        if truth is not None:
            _check_areas(dataset_name, truth)


def _check_areas(name: str, truth: CocoTruth) -> None:
    annotations, _, crowds = truth.counts
    if truth.flat == annotations - crowds:
        raise NDSError(
            f"dataset {name!r}: none of the {truth.flat} boxes to find has an area, so that the AP can only be 0: "
            "'bbox' must be x, y, width, height."
        )
    if empty := truth.empty_masks:
        logger.warning(
            "dataset %r: the run-length masks of %d of %d annotations cover nothing: no detection can match them.",
            *(name, empty, annotations),
        )


def _evaluator_type(dataset_name: str) -> str:
    check_registered([dataset_name])
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind not in EVALUATOR_TYPES:
        raise unknown_name(f"evaluator type of dataset {dataset_name!r}:", kind, EVALUATOR_TYPES)
    return str(kind)


def _voc_evaluator(name: str) -> DatasetEvaluator:
    dicts = dataset_dicts(name)  # read first: else missing files would be found after all the predictions
    if not isinstance(dicts, StoreDataset):
        return PascalVOCDetectionEvaluator(name)
    year = int(MetadataCatalog.get(name).get("year", 2007))
    return VOCEvaluator(name, dicts, dataset_classes(name), year)


def _has_masks(name: str, truth: CocoTruth | None) -> bool:
    """Whether every annotation has a mask.

    Raises:
        NDSError: there is nothing to find.
    """
    annotations, masks, crowds = annotation_counts(dataset_dicts(name)) if truth is None else truth.counts
    if not annotations:
        raise NDSError(f"dataset {name!r} has no annotations to evaluate against.")
    if crowds == annotations:
        raise NDSError(
            f"dataset {name!r}: all {annotations} annotations are crowds (iscrowd 1): COCO's evaluation counts "
            "none of them, so that there is nothing to evaluate against."
        )
    if 0 < masks < annotations:
        logger.warning(
            "dataset %r: %d of %d annotations have no mask, so only boxes are evaluated.",
            name,
            annotations - masks,
            annotations,
        )
    return masks == annotations
