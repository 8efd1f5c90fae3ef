"""The training half of the main job: pretrain on the selection, fine-tune on the target, evaluate."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode as CN
from detectron2.engine import hooks
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from nds_plugin.d2.config.deciding import TRAINED
from nds_plugin.d2.config.nodes import merged
from nds_plugin.d2.data.drawn_dataset import (
    drawn_dataset,
    drawn_label_spaces,
    register_selection,
    selection_label_space,
)
from nds_plugin.d2.data.fingerprints import dataset_fingerprint
from nds_plugin.d2.data.host import DetectronHost
from nds_plugin.d2.data.registration import dataset_classes, register_image_subset
from nds_plugin.d2.model.timm_backbone import NAME as TIMM_BACKBONE
from nds_plugin.d2.model.timm_backbone import without_initial_weights
from nds_plugin.d2.train.trainer import NDSTrainer
from nds_plugin.datasets.image_subset import subset_name
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, file_hash
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.job.training_folder import KIND, train_once
from nds_plugin.job.transfer import transfer_checkpoint
from nds_plugin.pipeline.selection_steps import Selected

logger = logging.getLogger(__name__)

# What Detectron2's own nodes hold that does not change the weights that come out.
_IRRELEVANT = (
    *("OUTPUT_DIR", "VERSION", "DATASETS.TEST", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE"),
    *("SOLVER.CHECKPOINT_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.EVAL_PERIOD", "TEST.KEYPOINT_OKS_SIGMAS"),
    *("TEST.DETECTIONS_PER_IMAGE", "TEST.AUG", "VIS_PERIOD", "CUDNN_BENCHMARK"),
)
# All of cfg.NDS that decides them beside the inputs, which are the selection, the source's labels and the
# transfer: what trainer, heads and loader read, and when experts are scored again. The target's images and
# the draw of them are in the name of DATASETS.TRAIN.
_OF_NDS = (*TRAINED, "SEED", "RESCORE")


class StageTrainer(NDSTrainer):
    """Evaluates only if it is told how often: the job's evaluation is a step of its own, after training."""

    def build_hooks(self) -> list[Any]:
        found = super().build_hooks()
        return found if self.cfg.TEST.EVAL_PERIOD else [h for h in found if not isinstance(h, hooks.EvalHook)]


def pretrain_config(cfg: CN, selected: Selected) -> CN:
    """The config of pretraining: the selection's derived dataset, its classes, ``NDS.PRETRAIN`` over all."""
    mapping = cfg.NDS.SOURCE.LABEL_MAPPING
    space = selection_label_space(selected.selection.sources, mapping)
    name = f"nds_selection_{selected.key[:10]}"
    register_selection(selected.path, name, mapping, selected.selection)
    result = merged(cfg, cfg.NDS.PRETRAIN)
    result.DATASETS.TRAIN, result.DATASETS.TEST = (name,), ()
    result.DATALOADER.SAMPLER_TRAIN = "NDSTrainingSampler"
    result.MODEL.ROI_HEADS.NUM_CLASSES = len(space.classes)
    result.NDS.SELECTION = str(selected.path)
    if space.partial:
        result.NDS.LABEL_SPACES = space.label_spaces
    result.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "pretrain")
    return result


def finetune_datasets(cfg: CN) -> tuple[str, ...]:
    """Names of the datasets to fine-tune on: those of the config, or draws of their images; reads none."""
    count = cfg.NDS.TARGET.NUM_IMAGES
    if not count:
        return tuple(cfg.DATASETS.TRAIN)
    return tuple(target_subset(name, count, cfg.NDS.SEED) for name in cfg.DATASETS.TRAIN)


def finetune_config(cfg: CN) -> CN:
    """The config of fine-tuning: the target's images and classes."""
    result = cfg.clone()
    result.defrost()
    result.DATASETS.TRAIN = finetune_datasets(cfg)
    classes = [dataset_classes(name) for name in cfg.DATASETS.TRAIN]
    if any(c != classes[0] for c in classes):
        raise NDSError(
            f"the target's datasets {list(cfg.DATASETS.TRAIN)} have different classes: join them first."
        )
    result.MODEL.ROI_HEADS.NUM_CLASSES = len(classes[0])
    drawn = drawn_dataset(result.DATASETS.TRAIN)
    if cfg.DATALOADER.SAMPLER_TRAIN in ("TrainingSampler", "NDSTrainingSampler"):
        # A stream that is trained on by its name is drawn from; of a subset every image is taken alike.
        stream = drawn is not None and drawn["mode"] == "stream"
        result.DATALOADER.SAMPLER_TRAIN = "NDSTrainingSampler" if stream else "SeekableTrainingSampler"
    result.NDS.SELECTION = ""
    spaces = drawn_label_spaces(result.DATASETS.TRAIN)
    partial = any(len(space) < len(classes[0]) for space in spaces)
    result.NDS.LABEL_SPACES = spaces if partial else []
    result.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "finetune")
    return result


def target_subset(name: str, count: int, seed: int) -> str:
    """Register a seeded draw of the target's images as a dataset of its own; its name."""
    subset = subset_name(name, count, seed)
    register_image_subset(subset, name, count, seed)
    return subset


def training_key(cfg: CN, inputs: Sequence[str]) -> str:
    """Hash of what decides the trained weights: the config of the stage and the hashes of the inputs."""
    plain = yaml.safe_load(cfg.dump())
    plain["NDS"] = {name: plain["NDS"][name] for name in _OF_NDS}
    # A file is an input by its content, wherever it lies.
    files = [key for key, weights in _initial_weights(cfg).items() if os.path.isfile(weights)]
    other = [] if cfg.MODEL.BACKBONE.NAME == TIMM_BACKBONE else ["MODEL.TIMM"]
    for name in (*_IRRELEVANT, *files, *other):
        *parents, leaf = name.split(".")
        node = plain
        for parent in parents:
            node = node.get(parent, {})
        node.pop(leaf, None)
    return content_hash([KIND, plain, list(inputs)])


def weights_fingerprint(cfg: CN) -> str:
    """Hash of the initial weights: of each file where it is one, else its name."""
    given = [
        file_hash(Path(weights)) if os.path.isfile(weights) else weights
        for weights in _initial_weights(cfg).values()
    ]
    return "+".join(given)


def _initial_weights(cfg: CN) -> dict[str, str]:
    """Where the detector, or its backbone, starts from, by the key that says so."""
    timm = cfg.MODEL.BACKBONE.NAME == TIMM_BACKBONE
    return {
        "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS,
        **({"MODEL.TIMM.WEIGHTS": cfg.MODEL.TIMM.WEIGHTS} if timm else {}),
    }


def train(
    cfg: CN,
    key: str,
    *,
    resume: bool,
    timed: Callable[[str], Any],
    initialise: Callable[[Any], None] | None = None,
    extra_hooks: Sequence[Any] = (),
) -> Path:
    """Train one stage unless it is finished; go on from its last checkpoint where it was interrupted.

    Args:
        cfg: the stage's config.
        key: hash of everything the result depends on.
        resume: go on from a checkpoint that another config left, too (``--resume``).
        timed: context manager by the name of a step.
        initialise: called with the model where the training starts anew, in place of MODEL.WEIGHTS and MODEL.TIMM.WEIGHTS.
        extra_hooks: hooks before all others.

    Returns:
        The path of the final weights.
    """

    def work(go_on: bool) -> None:
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED)
        with timed(folder.name):
            loaded = go_on or initialise is not None
            trainer = StageTrainer(without_initial_weights(cfg) if loaded else cfg, extra_hooks)
            if go_on or initialise is None:
                trainer.resume_or_load(resume=go_on)
            else:
                initialise(trainer.model)
            trainer.train()

    folder = Path(cfg.OUTPUT_DIR)
    return train_once(
        DetectronHost(), folder, key, work, resume=resume, config=cfg.dump(), iterations=cfg.SOLVER.MAX_ITER
    )


def transfer_into(cfg: CN, pretrained: Path, classes: Sequence[str], masks: bool) -> Callable[[Any], None]:
    """How fine-tuning starts: everything that fits, class-specific rows by name; reported in transfer.json.

    ``masks``: whether pretraining had a mask head.
    """

    def initialise(model: Any) -> None:
        allow = () if masks else ("roi_heads.mask_head.",)
        report = transfer_checkpoint(
            model,
            str(pretrained),
            classes,
            allow_missing=allow,
            loose=cfg.NDS.TRANSFER.LOOSE_NAMES,
            require_shared=cfg.NDS.TRANSFER.REQUIRE_SHARED_CLASSES,
        )
        if comm.is_main_process():
            report.save(Path(cfg.OUTPUT_DIR))

    return initialise


def evaluate(cfg: CN, weights: Path | str) -> dict[str, Any]:
    """Evaluate weights on ``DATASETS.TEST``: Detectron2's results by dataset (main process; {} elsewhere)."""
    model = build_model(without_initial_weights(cfg))
    state = read_checkpoint(weights)
    try:
        model.load_state_dict(state.get("model", state))
    except RuntimeError as error:
        raise NDSError(
            f"{weights} holds other weights than those of the config's detector "
            f"({' '.join(str(error).split())[:200]}): evaluate weights that were trained with this MODEL config."
        ) from None
    results = NDSTrainer.test(cfg, model)
    # Detectron2 leaves out the dataset's name where there is only one.
    return results if len(cfg.DATASETS.TEST) > 1 else {cfg.DATASETS.TEST[0]: results}


def target_fingerprint(cfg: CN) -> list[str]:
    """Hashes of the target's training data."""
    return [dataset_fingerprint(name) for name in cfg.DATASETS.TRAIN]
