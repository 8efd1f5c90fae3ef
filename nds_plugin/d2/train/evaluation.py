"""COCO-style and VOC evaluation, the numbers that the tables need, and the results file of a run."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator

from nds_plugin.d2.data.coco_truth import CocoTruth, read_truth
from nds_plugin.d2.data.ground_truth import annotation_counts, write_coco_document
from nds_plugin.d2.data.registration import check_registered, dataset_classes, dataset_dicts
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.d2.train.voc_evaluation import VOCEvaluator
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import atomic_write, content_hash, plain, write_json

logger = logging.getLogger(__name__)

KIND = "results"
EVALUATOR_TYPES = ("coco", "pascal_voc")
_MODULES = ("torch", "torchvision", "detectron2", "numpy", "pycocotools", "nds_plugin")


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | os.PathLike[str] | None = None
) -> DatasetEvaluator:
    """The evaluator of a dataset, chosen by ``evaluator_type`` in its metadata ("coco" if unset).

    COCO style: box AP, and mask AP where ``cfg.MODEL.MASK_ON`` and every annotation of the dataset
    has a mask; the official pycocotools, so that no compiled extension is needed. A dataset that is
    a COCO file is evaluated against that file: boxes that leave their image or have no area count
    there as the file has them. What pycocotools needs and the file lacks is completed in a copy
    (:mod:`nds_plugin.d2.data.coco_truth`). VOC style: box AP by both definitions
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

    return read_truth(str(json_file), size_of)


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
        write_coco_document(dicts, name, path)
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


def summarise(results: Mapping[str, Any], classes: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of the tables from what Detectron2's evaluators return for one dataset.

    Args:
        results: ``{"bbox": {"AP": ..., "AP-person": ...}, "segm": {...}}``, in percent.
        classes: the dataset's classes; needed for one with a single class, for which Detectron2
            leaves out the AP per category.

    Returns:
        ``AP_bb``, ``AP50_bb`` of boxes, ``AP``, ``AP50`` of masks, and ``per_category`` (masks) and
        ``per_category_bb`` as ``{class: AP}``. What was not computed (NaN, no masks) is None. A
        detector that found nothing at all, for which Detectron2 gives NaN alone, has an AP of 0.
    """
    boxes, masks = _metrics(results, "bbox"), _metrics(results, "segm")
    if not any(value is not None for metrics in (boxes, masks) for value in metrics.values()):
        zeros = dict.fromkeys(("AP", "AP50", *(f"AP-{name}" for name in classes)), 0.0)
        boxes, masks = (dict(zeros) if metrics else {} for metrics in (boxes, masks))
    return {
        "AP_bb": boxes.get("AP"),
        "AP50_bb": boxes.get("AP50"),
        "AP": masks.get("AP"),
        "AP50": masks.get("AP50"),
        "per_category": _per_category(masks, classes),
        "per_category_bb": _per_category(boxes, classes),
    }


def write_results(
    path: str | os.PathLike[str],
    results: Mapping[str, Any],
    config: CfgNode | str,
    seed: int,
    times: Mapping[str, float],
    classes: Sequence[str] = (),
    key: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the one JSON file of a run (artefact kind "results").

    Args:
        results: of Detectron2's evaluator, for one dataset; kept whole beside the summary.
        config: the config that was trained with, kept as its YAML text.
        times: name of a step -> seconds.
        classes: see :func:`summarise`.
        key: the artefact's key; by default the hash of config and seed.
        extra: further JSON-able entries; NaN and infinities become None.

    Returns:
        What was written, without the header.
    """
    text = config if isinstance(config, str) else config.dump()
    payload = {
        "seed": seed,
        "summary": summarise(results, classes),
        "results": plain(results),
        "times": plain(times),
        "versions": versions(),
        "machine": machine(),
        **plain(extra or {}),
        "config": text,
    }
    write_json(path, KIND, content_hash([text, seed]) if key is None else key, payload)
    return payload


def versions() -> dict[str, str]:
    """Versions of what a result depends on; "" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in _MODULES:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "")) or _distribution(
                name
            )
        except ImportError:
            found[name] = ""
    return found


def machine() -> dict[str, Any]:
    """Processor, usable cores, GPUs and system of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": cores, "gpus": gpus, "system": platform.platform()}


def _voc_evaluator(name: str) -> DatasetEvaluator:
    dicts = dataset_dicts(name)  # read first: else missing files would be found after all the predictions
    if not isinstance(dicts, StoreDataset):
        return PascalVOCDetectionEvaluator(name)
    year = int(MetadataCatalog.get(name).get("year", 2007))
    return VOCEvaluator(name, dicts, dataset_classes(name), year)


def _metrics(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    metrics = results.get(task) or {}
    if not isinstance(metrics, Mapping):
        raise NDSError(
            f"expected the results of one dataset, {{'bbox': {{...}}, 'segm': {{...}}}}, got {metrics!r} "
            f"for {task!r}."
        )
    return dict(plain(metrics))


def _per_category(metrics: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    if len(classes) == 1 and "AP" in metrics:
        return {classes[0]: metrics["AP"]}
    return {name[len("AP-") :]: value for name, value in metrics.items() if name.startswith("AP-")}


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


def _distribution(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
