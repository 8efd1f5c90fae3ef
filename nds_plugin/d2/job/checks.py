"""What can be refused at the start of a job, before hours of work: config, devices, folders, data."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from detectron2.config import CfgNode as CN
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.utils import comm

from nds_plugin.d2.config.nodes import merged
from nds_plugin.d2.data.drawn_dataset import selection_label_space
from nds_plugin.d2.data.fingerprints import dataset_fingerprint
from nds_plugin.d2.data.ground_truth import check_masks, why_no_object
from nds_plugin.d2.data.loader import check_sampler
from nds_plugin.d2.data.registration import check_registered, dataset_classes, dataset_dicts, index_dataset
from nds_plugin.d2.data.stock_loader import check_model
from nds_plugin.d2.model.initial_weights import check_initial_weights, locate
from nds_plugin.d2.model.roi_heads import NDSROIHeads
from nds_plugin.d2.model.timm_backbone import NAME as TIMM_BACKBONE
from nds_plugin.d2.model.timm_backbone import build_timm_fpn_backbone, check_maps
from nds_plugin.d2.train.evaluation import check_ground_truth
from nds_plugin.d2.train.stages import finetune_config
from nds_plugin.d2.train.trainer import OPTIMIZERS
from nds_plugin.errors import NDSError, few, unknown_name
from nds_plugin.files.artifacts import check_writable
from nds_plugin.images.checkpoint_forms import check_file
from nds_plugin.images.networks import choose_device
from nds_plugin.job.checks import (
    check_annotated,
    check_decodable,
    check_images,
    check_same_classes,
    check_settings,
    check_shared_classes,
    warn_of_seen_tests,
)
from nds_plugin.job.training_folder import has_begun
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.pipeline.settings import check_dataset_names
from nds_plugin.pipeline.settings_from_cfg import source_datasets
from nds_plugin.source.index import SourceIndex


def check_config(cfg: CN, processes: int | None = None) -> None:
    """Refuse at once what would otherwise fail after hours.

    Args:
        cfg: a config with ``cfg.NDS``.
        processes: of the job; by default those that are running.

    Raises:
        NDSError: unknown names, no such device, numbers out of range, settings that contradict
            each other, a folder that cannot be written, initial weights that are not there.
    """
    nds = cfg.NDS
    processes = comm.get_world_size() if processes is None else processes
    check_settings(nds)
    if nds.SELECTION:
        raise NDSError(
            f"NDS.SELECTION {nds.SELECTION} would not be looked at: this job makes its own selection; to train "
            "on one that is drawn, name its dataset (nds draw --name) in DATASETS.TRAIN with NDS.SELECTOR none."
        )
    if not cfg.DATASETS.TRAIN or not cfg.DATASETS.TEST:
        raise NDSError("DATASETS.TRAIN and DATASETS.TEST must name the target's training and test datasets.")
    check_dataset_names(nds.TARGET.DATASETS, "NDS.TARGET.DATASETS")
    check_dataset_names(cfg.DATASETS.TEST, "DATASETS.TEST")
    check_registered([*source_datasets(nds), *nds.TARGET.DATASETS, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    _check_device(cfg.MODEL.DEVICE)
    _check_stage(cfg, "", processes)
    if nds.SELECTOR != NO_PRETRAINING:
        _check_stage(merged(cfg, nds.PRETRAIN), "NDS.PRETRAIN.", processes)
    for folder in {cfg.OUTPUT_DIR, nds.WORK_DIR or cfg.OUTPUT_DIR}:
        check_writable(folder)


def _check_device(name: str) -> None:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise NDSError(
            f"MODEL.DEVICE is {name}, but torch sees no GPU here: add MODEL.DEVICE cpu to run on the CPU."
        )
    choose_device(name)


def _check_stage(cfg: CN, prefix: str, processes: int) -> None:
    """The settings of one training stage; ``prefix`` is where the config keeps them."""
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH < 1 or solver.IMS_PER_BATCH % processes:
        raise NDSError(
            f"{prefix}SOLVER.IMS_PER_BATCH must be 1 or more and a multiple of the {processes} processes "
            f"(--num-gpus x --num-machines), got {solver.IMS_PER_BATCH}."
        )
    for name in ("MAX_ITER", "CHECKPOINT_PERIOD"):
        if solver[name] < 1:
            raise NDSError(f"{prefix}SOLVER.{name} must be 1 or more, got {solver[name]}.")
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise NDSError(f"{prefix}DATALOADER.NUM_WORKERS must be 0 or more, got {cfg.DATALOADER.NUM_WORKERS}.")
    check_model(cfg)
    check_sampler(cfg.DATALOADER.SAMPLER_TRAIN)
    _check_architecture(cfg.MODEL.META_ARCHITECTURE, f"{prefix}MODEL.META_ARCHITECTURE")
    _check_heads(cfg, len(cfg.NDS.LABEL_SPACES) > 0, f"{prefix}NDS.LABEL_SPACES")
    if cfg.NDS.OPTIMIZER not in OPTIMIZERS:
        raise unknown_name("NDS.OPTIMIZER", cfg.NDS.OPTIMIZER, OPTIMIZERS)
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        check_file(locate(cfg.MODEL.WEIGHTS), f"{prefix}MODEL.WEIGHTS")


def _check_architecture(name: str, key: str) -> None:
    if name not in META_ARCH_REGISTRY:
        raise unknown_name(key, name, [known for known, _ in META_ARCH_REGISTRY])
    found = META_ARCH_REGISTRY.get(name)
    if not (isinstance(found, type) and issubclass(found, GeneralizedRCNN)):
        raise NDSError(
            f"{key} {name}: this job trains GeneralizedRCNN and what is derived from it, as it knows only of R-CNN's heads how "
            "many classes they have and which of their rows belongs to which class."
        )


def check_weights(cfg: CN) -> None:
    """See that the first training can start from its weights: ``MODEL.WEIGHTS`` (a link is downloaded now) and timm's.

    A link is let pass where that training has begun: it goes on, or is kept, without the file.

    Raises:
        NDSError: they are not there, broken, or of another network.
    """
    selecting = cfg.NDS.SELECTOR != NO_PRETRAINING
    stage = merged(cfg, cfg.NDS.PRETRAIN) if selecting else cfg
    folder = Path(cfg.OUTPUT_DIR) / ("pretrain" if selecting else "finetune")
    weights = stage.MODEL.WEIGHTS
    if stage.MODEL.BACKBONE.NAME == TIMM_BACKBONE and not has_begun(folder):
        backbone = build_timm_fpn_backbone(stage, ShapeSpec(channels=len(stage.MODEL.PIXEL_MEAN)))
        check_maps(backbone, stage.MODEL.TIMM.NAME)
    if not weights or ("://" in weights and has_begun(folder)):
        return
    check_initial_weights(stage, weights)


def check_target(cfg: CN) -> None:
    """Read the target's annotations, see that its images are there, and decode those of the test set.

    Raises:
        NDSError: annotations that cannot be read or are none; missing images; a test image that cannot
            be decoded; training and test datasets of different classes; ground truth that cannot be evaluated on; fewer images
            than NDS.TARGET.NUM_IMAGES.
    """
    finetune_cfg = finetune_config(cfg)
    if cfg.NDS.SELECTOR != NO_PRETRAINING:
        warn_of_seen_tests(cfg.NDS.SOURCE.DATASETS, cfg.DATASETS.TEST, "DATASETS.TEST")
    _check_heads(
        finetune_cfg,
        len(finetune_cfg.NDS.LABEL_SPACES) > 0,
        f"DATASETS.TRAIN {finetune_cfg.DATASETS.TRAIN[0]!r}",
    )
    train = {name: index_dataset(name) for name in finetune_cfg.DATASETS.TRAIN}
    test = {name: index_dataset(name) for name in cfg.DATASETS.TEST}
    scored = {name: index_dataset(name) for name in cfg.NDS.TARGET.DATASETS if name not in train}
    first, classes = next((name, list(index.classes)) for name, index in train.items())
    for name, index in test.items():
        check_same_classes(name, index.classes, first, classes)
        check_images(name, index, 0.0)  # the evaluation needs them all
        check_masks(name)
        check_ground_truth(name)
    for name, index in train.items():
        check_annotated(name, index, functools.partial(_why_no_object, name))
    for name, index in {**train, **scored}.items():
        check_images(name, index, cfg.NDS.LOADER.MAX_UNREADABLE)
    for name in train:
        check_masks(name)
    for name, index in test.items():  # last, since it takes longest
        check_decodable(name, index)


def _why_no_object(name: str) -> str:
    return why_no_object(dataset_dicts(name))


def check_source_files(cfg: CN) -> None:
    """See that the source's annotations are there and can be read.

    Raises:
        NDSError: they are not; a bad label mapping; heads that cannot train on these sources.
    """
    if cfg.NDS.SELECTOR != NO_PRETRAINING:
        source = cfg.NDS.SOURCE
        for name in source_datasets(cfg.NDS):
            dataset_fingerprint(name)
        space = selection_label_space(source.DATASETS, source.LABEL_MAPPING, partial=False)
        _check_heads(merged(cfg, cfg.NDS.PRETRAIN), space.partial, f"the sources {few(source.DATASETS, 3)}")


def _check_heads(cfg: CN, several: bool, what: str) -> None:
    """Refuse heads that know no label spaces where there are several."""
    name = cfg.MODEL.ROI_HEADS.NAME
    if several and not issubclass(ROI_HEADS_REGISTRY.get(name), NDSROIHeads):
        raise NDSError(
            f"{what}: not every source labels all of the classes, and MODEL.ROI_HEADS.NAME {name} would train what one "
            "does not label as background: set NDSROIHeads."
        )


def check_source(cfg: CN, index: SourceIndex) -> None:
    """What only the source's index can tell of its classes, before experts are trained.

    Raises:
        NDSError: a bad label mapping; see :func:`check_shared_classes`.
    """
    mapping, classes = cfg.NDS.SOURCE.LABEL_MAPPING, index.classes
    if mapping:
        classes = selection_label_space(cfg.NDS.SOURCE.DATASETS, mapping, partial=False).classes
    check_shared_classes(classes, dataset_classes(cfg.DATASETS.TRAIN[0]), cfg.NDS)
