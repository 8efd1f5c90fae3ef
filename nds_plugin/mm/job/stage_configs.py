"""The configs of the two trainings, made from the one that a job is given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size

from nds_plugin.datasets.label_space import LabelSpace
from nds_plugin.files.artifacts import content_hash, file_hash, plain
from nds_plugin.job.training_folder import KIND
from nds_plugin.mm.config.loading import JobConfig, merged
from nds_plugin.mm.job.named_dataset import named
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING

# What decides the weights of a training, of all that a config holds: its further keys are the machine's, the
# log's or the evaluation's.
_DECIDING = (
    "model",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "custom_hooks",
    "randomness",
    "auto_scale_lr",
)
# Parts of a RoI head that know the classes; the last two are of Mask Scoring R-CNN and PointRend.
_HEADS = ("bbox_head", "mask_head", "mask_iou_head", "point_head")
_CHECKPOINTS = 1000  # iterations between two, where a config names none
_OF_LOADER = ("batch_size", "collate_fn", "sampler")


def num_classes(model: ConfigDict, count: int) -> list[str]:
    """Set the number of classes of the heads of boxes and masks; the names of other parts that have one."""
    others = []
    for name, found in model.roi_head.items():
        parts = [part for part in (found if isinstance(found, list) else [found]) if isinstance(part, dict)]
        if name in _HEADS:
            for part in parts:
                part["num_classes"] = count
        elif any("num_classes" in part for part in parts):
            others.append(name)
    return others


def has_mask_head(cfg: Config) -> bool:
    """Whether a stage's model tells masks."""
    return bool(cfg.model.roi_head.get("mask_head"))


def may_lack(masks: bool) -> tuple[str, ...]:
    """Prefixes of weights that fine-tuning initialises itself after pretraining with, or without, masks."""
    return () if masks else ("roi_head.mask_head.",)


def pretrain_config(job: JobConfig, selection: Path, sources: Sequence[str], space: LabelSpace) -> Config:
    """The config of pretraining: the selection's images under the united classes, ``nds.pretrain`` over all."""
    cfg = merged(job.cfg, job.nds.PRETRAIN)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = {
        "type": "NDSSelection",
        "selection": str(selection),
        "source_names": list(sources),
        "label_mapping": job.nds.SOURCE.LABEL_MAPPING,
        "dataset": [named(job.nds.DATASETS, name, pipeline=pipeline, filter_empty=True) for name in sources],
    }
    num_classes(cfg.model, len(space.classes))
    if space.partial:
        cfg.model.roi_head.label_spaces = space.label_spaces
    hook = {"type": "NDSDrawHook", "selection": str(selection)}
    return _stage(job, cfg, "pretrain", {"selection": str(selection)}, [hook])


def finetune_config(job: JobConfig, classes: Sequence[str]) -> Config:
    """The config of fine-tuning: the target's images and classes."""
    cfg = merged(job.cfg, {})
    pipeline = cfg.train_dataloader.dataset.pipeline
    draw = {"num_images": job.nds.TARGET.NUM_IMAGES, "seed": job.nds.SEED}
    parts = [
        named(job.nds.DATASETS, n, pipeline=pipeline, filter_empty=True, **draw) for n in job.nds.TARGET.TRAIN
    ]
    joined = {"type": "ConcatDataset", "datasets": parts}
    cfg.train_dataloader.dataset = parts[0] if len(parts) == 1 else joined
    num_classes(cfg.model, len(classes))
    if job.nds.SELECTOR != NO_PRETRAINING:  # all of it is taken over from pretraining
        cfg.load_from = None
        cfg.model.backbone.init_cfg = None
    return _stage(job, cfg, "finetune", {}, [{"type": "NDSDrawHook"}])


def _stage(
    job: JobConfig, cfg: Config, name: str, sampler: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]]
) -> Config:
    """What both trainings have: a seekable stream of images, whole checkpoints, no evaluation in between."""
    cfg.work_dir = str(job.work_dir / name)
    loader = cfg.train_dataloader
    loader.sampler = {"type": "NDSInfiniteSampler", **sampler}
    loader.batch_sampler = None
    cfg.train_cfg = {
        "type": "NDSIterBasedTrainLoop",
        "max_iters": cfg.train_cfg.max_iters,
        "max_unreadable": job.nds.LOADER.MAX_UNREADABLE,
    }
    for key in (
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
        "test_dataloader",
        "test_cfg",
        "test_evaluator",
    ):
        cfg[key] = None
    given = dict((cfg.get("default_hooks") or {}).get("checkpoint") or {})
    # An interval of epochs, in which the stock hook counts, says nothing here.
    stock = str(given.get("type")).rpartition(".")[2].startswith("CheckpointHook")
    epochs = stock and given.get("by_epoch", True)
    taken = ("max_keep_ckpts",) if epochs else ("interval", "max_keep_ckpts")
    kept = {key: value for key, value in given.items() if key in taken}
    checkpoints = {"type": "NDSCheckpointHook", "interval": _CHECKPOINTS, "max_keep_ckpts": 2, **kept}
    cfg.default_hooks = {
        **dict(cfg.get("default_hooks") or {}),
        "checkpoint": {**checkpoints, "by_epoch": False},
    }
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), *hooks]
    cfg.randomness = {**dict(cfg.get("randomness") or {}), "seed": job.nds.SEED}
    cfg.resume = False
    return cfg


def training_key(cfg: Config, inputs: Sequence[Any]) -> str:
    """Hash of what decides the trained weights: of the stage's config, and the hashes of its inputs."""
    found = {key: _by_content(plain(cfg.get(key))) for key in _DECIDING}
    if cfg.get("sync_bn"):
        found["sync_bn"] = cfg.sync_bn
    # Which images, the inputs say; the paths of files do not matter.
    found["custom_hooks"] = [h for h in found["custom_hooks"] or [] if h.get("type") != "NDSDrawHook"]
    if not (found["auto_scale_lr"] or {}).get("enable"):
        found["auto_scale_lr"] = None  # it only says what the learning rate is for
    found["loader"] = {key: plain(cfg.train_dataloader.get(key)) for key in _OF_LOADER if key != "sampler"}
    found["loader"]["batch_size"] *= get_world_size()  # what an iteration takes, on all processes
    tested = found["model"].pop("test_cfg", None) or {}
    # Without settings of their own, the proposals of training follow those of a test.
    if "rpn_proposal" not in (found["model"].get("train_cfg") or {}):
        found["model"]["test_cfg"] = {"rpn": tested.get("rpn")}
    dataset = cfg.train_dataloader.dataset
    joined = {"NDSSelection": "dataset", "ConcatDataset": "datasets"}.get(dataset["type"])
    parts = dataset[joined] if joined else [dataset]
    found["pipelines"] = [plain(part["pipeline"]) for part in parts]
    found["weights"] = initial_weights(cfg)
    found["train_cfg"].pop("max_unreadable")
    return content_hash([KIND, "mmdet", found, list(inputs)])


def initial_weights(cfg: Config) -> str:
    """Hash of ``load_from``: of the file where it is one, else its name."""
    path = cfg.get("load_from") or ""
    return file_hash(path) if path and os.path.isfile(path) else path


def _by_content(value: Any) -> Any:
    """The value with checkpoints that are files by their content, wherever they lie."""
    if isinstance(value, dict):
        return {
            k: file_hash(v)
            if k == "checkpoint" and isinstance(v, str) and os.path.isfile(v)
            else _by_content(v)
            for k, v in value.items()
        }
    return [_by_content(item) for item in value] if isinstance(value, list) else value
