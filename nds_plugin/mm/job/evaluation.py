"""Detections of a model of MMDetection against COCO's ground truth, by the official pycocotools.

The numbers are those of Detectron2's evaluator: of the same detections both hosts report the same AP.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from mmcv.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmengine.dist import collect_results, is_main_process
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from nds_plugin.datasets.catalogue import find_split
from nds_plugin.datasets.coco.document import object_columns, write_coco_document
from nds_plugin.datasets.coco.truth import CocoTruth, read_truth
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.job.voc_truth import VOCTruth
from nds_plugin.mm.job.registered import is_kind
from nds_plugin.pipeline.files_host import StoredDataset

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first of COCOeval's numbers


def coco_truth(dataset: StoredDataset) -> CocoTruth | None:
    """The ground truth of a dataset that is a COCO file; None for others, and for a draw of its images."""
    if not dataset.json_file or dataset.subset is not None:
        return None
    view = dataset.view()
    sizes = dict(zip(view.image_ids().to_pylist(), view.sizes().tolist()))

    def size_of(image_id: Any) -> tuple[int, int]:
        width, height = sizes[str(int(image_id) if isinstance(image_id, float) else image_id)]
        return width, height

    return read_truth(dataset.json_file, size_of)


def truth_file(dataset: StoredDataset, folder: Path) -> str:
    """A COCO file of a dataset that can be evaluated on: its own where that is complete, else a copy in a folder."""
    truth = coco_truth(dataset)
    if truth is not None and not truth.changes:
        return dataset.json_file
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset.name}_coco_format.json"
    if truth is None:
        view = dataset.view()
        names = zip(view.store.category_ids, dataset.classes())
        write_coco_document(dataset.records(), [view], [{"id": i, "name": n} for i, n in names], path)
    else:
        logger.warning(
            "dataset %r is evaluated against %s, a copy with %s.",
            dataset.name,
            path,
            "; ".join(truth.changes),
        )
        with atomic_write(path, "w") as file:
            json.dump(truth.document, file)
    return str(path)


def voc_truth(dataset: StoredDataset) -> VOCTruth | None:
    """The objects of a dataset that is evaluated by PASCAL VOC's rules; None for others."""
    split = find_split(dataset.name)
    if split is None or split.metadata.get("evaluator_type") != "pascal_voc":
        return None
    return VOCTruth(dataset.name, [dataset.view()], dataset.classes(), int(split.metadata.get("year", 2007)))


def voc_results(truth: VOCTruth, detections: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """``{"bbox": {"AP50_area": ..., ...}}``; the categories of the detections are positions of classes."""
    of_image: dict[int, list[dict[str, Any]]] = {}
    for one in detections:
        of_image.setdefault(truth.position(one["image_id"]), []).append(one)
    predictions = []
    for position, found in of_image.items():
        boxes = np.array([one["bbox"] for one in found], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([one["score"] for one in found], np.float64)
        predictions.append(
            (position, boxes, scores, np.array([one["category_id"] for one in found], np.int64))
        )
    return {"bbox": truth.results(predictions)}


def has_masks(dataset: StoredDataset) -> bool:
    """Whether every object of a dataset has a mask; a WARNING where some have.

    Raises:
        NDSError: there is nothing to find.
    """
    columns = object_columns([dataset.view()])
    count, masks = len(columns), int(columns.has_mask.sum())
    if count == 0 or columns.iscrowd.all():
        why = f"all {count} annotations are crowds (iscrowd 1)" if count else "it has no annotations"
        raise NDSError(f"dataset {dataset.name!r} cannot be evaluated against: {why}.")
    if not (columns.bbox[~columns.iscrowd, 2:] > 0).all(axis=1).any():
        raise NDSError(
            f"dataset {dataset.name!r}: none of its boxes has an area, so that the AP can only be 0."
        )
    if 0 < masks < count:
        logger.warning(
            "dataset %r: %d of %d annotations have no mask, so only boxes are evaluated.",
            dataset.name,
            count - masks,
            count,
        )
    return masks == count


def without_annotations(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps of a test pipeline but those that load annotations, which the evaluation reads from the dataset itself."""
    kept = [step for step in pipeline if not is_kind(TRANSFORMS, step["type"], LoadAnnotations)]
    if len(kept) < len(pipeline):
        logger.info("The test pipeline's LoadAnnotations is left out: the ground truth is the dataset's own.")
    return kept


class DetectionResults:
    """Detections of images in COCO's form, collected from all processes.

    Args:
        category_ids: the id of each class that the model tells, None where its detections are left out.
        masks: whether to keep masks.
    """

    def __init__(self, category_ids: Sequence[int | None], masks: bool) -> None:
        self._ids, self._masks = list(category_ids), masks
        self._found: list[list[dict[str, Any]]] = []

    def add(self, samples: Sequence[Any]) -> None:
        """Take the predictions of some images."""
        for sample in samples:
            instances = sample.pred_instances.to("cpu")
            boxes = instances.bboxes.double().numpy()
            boxes[:, 2:] -= boxes[:, :2]
            found = []
            for i, label in enumerate(instances.labels.tolist()):
                if (category := self._ids[label]) is None:
                    continue
                one = {
                    "image_id": sample.img_id,
                    "category_id": category,
                    "score": float(instances.scores[i]),
                }
                if self._masks:
                    one["segmentation"] = _encoded(instances.masks[i])
                found.append({**one, "bbox": boxes[i].tolist()})
            self._found.append(found)

    def collected(self, images: int) -> list[dict[str, Any]] | None:
        """All detections on ``images`` images, on the main process; None on others."""
        parts = collect_results(self._found, images)
        return None if parts is None else [one for part in parts for one in part]


def _encoded(mask: torch.Tensor) -> dict[str, Any]:
    found = mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def detect(
    model: torch.nn.Module, loader_cfg: Mapping[str, Any], results: DetectionResults
) -> list[dict[str, Any]] | None:
    """All detections of a model on a test dataset, on the main process; None on others."""
    loader = Runner.build_dataloader(dict(loader_cfg), seed=0)
    model.eval()
    with torch.no_grad():
        for batch in tqdm(
            loader, desc="evaluation", unit="batch", disable=None if is_main_process() else True, delay=2
        ):
            results.add(model.test_step(batch))  # type: ignore[operator]
    return results.collected(len(loader.dataset))


def coco_results(
    truth: str | Mapping[str, Any], detections: Sequence[dict[str, Any]], masks: bool
) -> dict[str, dict[str, float]]:
    """``{"bbox": {"AP": ..., "AP-person": ...}, "segm": {...}}`` in percent, as Detectron2's evaluator gives them.

    Args:
        truth: a COCO file or document.
        detections: in COCO's form, the boxes in pixels.
        masks: also of masks.
    """
    document = (
        json.loads(Path(truth).read_text(encoding="utf-8-sig")) if isinstance(truth, str) else dict(truth)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = document
        coco.createIndex()
        return {
            task: _task_results(coco, detections, task) for task in (("bbox", "segm") if masks else ("bbox",))
        }


def _task_results(coco: COCO, detections: Sequence[dict[str, Any]], task: str) -> dict[str, float]:
    if not detections:  # which pycocotools cannot take
        return dict.fromkeys(_METRICS, float("nan"))
    left_out = "segmentation" if task == "bbox" else "bbox"  # the area of a mask counts for masks
    evaluation = COCOeval(
        coco, coco.loadRes([{k: v for k, v in one.items() if k != left_out} for one in detections]), task
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found = {
        name: float(100 * value) if value >= 0 else float("nan")
        for name, value in zip(_METRICS, evaluation.stats)
    }
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    if len(names) > 1:
        for place, category in enumerate(evaluation.params.catIds):
            precision = evaluation.eval["precision"][:, :, place, 0, -1]
            known = precision[precision > -1]
            found[f"AP-{names[category]}"] = float(100 * known.mean()) if known.size else float("nan")
    return found
