"""The pretrained detector tested on the target before any fine-tuning, over the classes shared by name.

A sharper measure of a selection than AP after fine-tuning, which levels differences: no step is
trained on the target. The detector runs as it was pretrained, on all its source classes; detections
of a class that the target shares count for the target's class, the others are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode as CN
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm

from nds_plugin.d2.data.fingerprints import dataset_fingerprint
from nds_plugin.d2.data.registration import dataset_classes
from nds_plugin.d2.model.timm_backbone import without_initial_weights
from nds_plugin.d2.train.trainer import NDSTrainer
from nds_plugin.files.artifacts import content_hash, is_valid, read_json, write_json
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.job.shared_classes import KIND, over_shared, renamed_classes, shared_classes

logger = logging.getLogger(__name__)


class RenamedClasses(DatasetEvaluator):
    """Hands detections to another evaluator under the target's classes; drops those of no class there.

    Args:
        evaluator: of the target's dataset.
        target_of: the target's class of each source class, -1 where it has none; shape (source classes,).
    """

    def __init__(self, evaluator: DatasetEvaluator, target_of: Sequence[int]) -> None:
        self._evaluator = evaluator
        self._target_of = torch.as_tensor(list(target_of), dtype=torch.int64)

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        renamed = []
        for output in outputs:
            instances = output["instances"].to("cpu")
            classes = self._target_of[instances.pred_classes]
            instances = instances[classes >= 0]
            instances.pred_classes = classes[classes >= 0]
            renamed.append({**output, "instances": instances})
        self._evaluator.process(inputs, renamed)

    def evaluate(self) -> Any:
        return self._evaluator.evaluate()


def evaluate_pretrained(cfg: CN, pretrain_cfg: CN, weights: Path, pretrain_key: str) -> dict[str, Any]:
    """Results on the first of ``DATASETS.TEST``, kept in ``OUTPUT_DIR/pretrained.json``; {} elsewhere
    than on the main process.

    Args:
        cfg: the job's config; its test datasets and sizes.
        pretrain_cfg: the config of the pretrained model.
        weights: of the pretrained model.
        pretrain_key: the hash of what they depend on.

    Returns:
        ``classes`` (the shared ones), ``AP_bb`` and ``AP`` (means over them, None where there is
        none), ``per_category_bb`` and ``per_category``.
    """
    name = cfg.DATASETS.TEST[0]
    path = Path(cfg.OUTPUT_DIR) / "pretrained.json"
    key = content_hash([KIND, pretrain_key, name, dataset_fingerprint(name), cfg.TEST.dump()])
    if comm.all_gather(is_valid(path, KIND, key))[0]:
        logger.info("pretrained evaluation: kept %s", path)
        return read_json(path, KIND) if comm.is_main_process() else {}
    # The checkpoint's own classes: where pretraining is kept, its dataset was never loaded here.
    checkpoint = read_checkpoint(weights)
    target_of, shared = shared_classes(checkpoint["extra"]["thing_classes"], dataset_classes(name))
    model = build_model(without_initial_weights(pretrain_cfg))
    model.load_state_dict(checkpoint["model"])
    _masks_of_shared_classes_only(model, target_of)
    folder = Path(cfg.OUTPUT_DIR) / "pretrain" / "inference"
    evaluator = RenamedClasses(NDSTrainer.build_evaluator(pretrain_cfg, name, str(folder)), target_of)
    results = inference_on_dataset(model, NDSTrainer.build_test_loader(cfg, name), evaluator)
    if comm.is_main_process():
        found = over_shared(results or {}, shared, dataset_classes(name))
        found["renamed"] = renamed_classes(
            checkpoint["extra"]["thing_classes"], target_of, dataset_classes(name)
        )
        write_json(path, KIND, key, found)
    comm.synchronize()
    return read_json(path, KIND) if comm.is_main_process() else {}


def _masks_of_shared_classes_only(model: Any, target_of: Sequence[int]) -> None:
    """Drop the other detections before the mask head, which spends most of the time where classes are many."""
    is_shared = torch.as_tensor(list(target_of), device=model.device) >= 0
    forward = model.roi_heads.forward_with_given_boxes

    def forward_shared(features: Any, instances: Any) -> Any:
        return forward(features, [found[is_shared[found.pred_classes]] for found in instances])

    model.roi_heads.forward_with_given_boxes = forward_shared
