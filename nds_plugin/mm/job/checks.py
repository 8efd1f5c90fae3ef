"""What can be refused at the start of a job, before hours of work: config, data, features that heads lack."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import DATA_SAMPLERS, MODELS, OPTIMIZERS, PARAM_SCHEDULERS, TRANSFORMS
from mmengine.config import Config

from nds_plugin.datasets.coco.document import object_columns
from nds_plugin.datasets.label_space import LabelSpace, unite
from nds_plugin.errors import NDSError, few, unknown_name
from nds_plugin.files.artifacts import check_writable
from nds_plugin.files.checkpoints import why_broken
from nds_plugin.job.checks import (
    check_annotated,
    check_decodable,
    check_images,
    check_same_classes,
    check_settings,
    check_shared_classes,
)
from nds_plugin.mm.config.loading import JobConfig, merged
from nds_plugin.mm.data.sampler import NDSInfiniteSampler
from nds_plugin.mm.job.evaluation import has_masks
from nds_plugin.mm.job.named_dataset import stored
from nds_plugin.mm.job.registered import check_known, is_kind
from nds_plugin.mm.job.transferable import check_transfer
from nds_plugin.mm.model.mixed import NDSLoadAnnotations, NDSRoIHead
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.settings import check_dataset_names
from nds_plugin.pipeline.settings_from_cfg import source_datasets
from nds_plugin.store.view import StoreView

logger = logging.getLogger(__name__)


def check_config(job: JobConfig, host: FilesHost) -> None:
    """Refuse at once what would otherwise fail after hours; reads no annotations.

    Raises:
        NDSError: unknown names, settings that contradict each other, a folder that cannot be written, initial
            weights that are not there.
    """
    nds = job.nds
    check_settings(nds, str.lower)
    if not nds.TARGET.TRAIN or not nds.TARGET.TEST:
        raise NDSError(
            "nds.target must name the target's training and test datasets: nds.target=dict(train=[...], test=[...])."
        )
    for key in ("TRAIN", "TEST", "DATASETS"):
        check_dataset_names(nds.TARGET[key], f"nds.target.{key.lower()}")
    for name in (*source_datasets(nds), *nds.TARGET.DATASETS, *nds.TARGET.TRAIN, *nds.TARGET.TEST):
        host.dataset(name)
        _check_own_files(name, nds.DATASETS.get(name))
    for prefix, cfg in _stages(job).items():
        _check_stage(cfg, prefix)
    for folder in {job.work_dir, job.artefacts}:
        check_writable(folder)


def _stages(job: JobConfig) -> dict[str, Config]:
    """The configs of the trainings, by what their keys begin with."""
    stages = {"": job.cfg}
    if job.nds.SELECTOR != NO_PRETRAINING:
        stages["nds.pretrain."] = merged(job.cfg, job.nds.PRETRAIN)
    return stages


def _check_own_files(name: str, files: Mapping[str, str] | None) -> None:
    if files and not Path(files["ann_file"]).is_file():
        raise NDSError(f"nds.datasets.{name}: annotation file not found: {files['ann_file']}.")
    if files and not Path(files["images"]).is_dir():
        raise NDSError(f"nds.datasets.{name}: no such folder of images: {files['images']}.")


def _check_stage(cfg: Config, prefix: str) -> None:
    loader = cfg.train_dataloader
    if not isinstance(loader.get("batch_size"), int) or loader.batch_size < 1:
        raise NDSError(
            f"{prefix}train_dataloader.batch_size, the images of a process, must be 1 or more, got {loader.get('batch_size')!r}."
        )
    _check_sampler(loader.get("sampler"), f"{prefix}train_dataloader.sampler")
    model = cfg.model
    check_known(MODELS, model.get("type"), f"{prefix}model.type")
    if not isinstance(model.get("roi_head"), Mapping):
        raise NDSError(
            f"{prefix}model {model.get('type')} has no roi_head: transfer by class name knows the heads of Faster, Mask and "
            "Cascade R-CNN. One-stage and query detectors can train on a draw (NDSSelection, NDSInfiniteSampler), not in this job."
        )
    check_known(MODELS, model.roi_head.get("type"), f"{prefix}model.roi_head.type")
    for key in ("train_dataloader", "test_dataloader"):
        for step in cfg[key].dataset.pipeline:
            check_known(TRANSFORMS, step["type"], f"step of {prefix}{key}.dataset.pipeline")
    if "optimizer" in cfg.optim_wrapper:
        optimizer = cfg.optim_wrapper.optimizer
        check_known(OPTIMIZERS, optimizer.get("type"), f"{prefix}optim_wrapper.optimizer.type")
    schedules = cfg.get("param_scheduler") or []
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        check_known(PARAM_SCHEDULERS, schedule.get("type"), f"{prefix}param_scheduler.type")
        if schedule.get("by_epoch", True) or schedule.get("convert_to_iter_based"):
            raise NDSError(
                f"{prefix}param_scheduler {schedule.get('type')} counts in epochs, and a draw has none: give by_epoch=False without "
                "convert_to_iter_based, with begin, end and milestones in iterations."
            )
    path = cfg.get("load_from")
    if path and "://" not in path and (broken := why_broken(path)):
        raise NDSError(f"{prefix}load_from: {broken}")


def warn_of_batches(job: JobConfig, processes: int) -> None:
    """Say so where an iteration does not take the images that the learning rate and the schedule are for."""
    for prefix, cfg in _stages(job).items():
        scaled, each = cfg.get("auto_scale_lr") or {}, cfg.train_dataloader.batch_size
        wanted, taken = scaled.get("base_batch_size"), each * processes
        if wanted and wanted != taken and not scaled.get("enable"):
            logger.warning(
                "%strain_dataloader: an iteration takes %d images (%d a process, processes: %d), but learning rate and schedule "
                "are for %d (auto_scale_lr.base_batch_size): train on as many processes, or multiply "
                "%soptim_wrapper.optimizer.lr by %.4g, divide max_iters and the schedule's iterations by it, and set "
                "%sauto_scale_lr.base_batch_size to %d.",
                prefix, taken, each, processes, wanted, prefix, taken / wanted, prefix, taken,
            )  # fmt: skip


def _check_sampler(given: Any, key: str) -> None:
    """The job draws by its own sampler; that of a config may be named, or the stock ones that it stands for."""
    kind = (given or {}).get("type", "DefaultSampler")
    found = kind if isinstance(kind, type) else DATA_SAMPLERS.get(str(kind))
    if found is None:
        known = [*DATA_SAMPLERS.module_dict, NDSInfiniteSampler.__name__]
        raise unknown_name(key, str(kind), known)
    if found.__name__ not in ("DefaultSampler", "InfiniteSampler", NDSInfiniteSampler.__name__):
        raise NDSError(
            f"{key}: the job draws by NDSInfiniteSampler, got {found.__name__}: take it out of the config."
        )


def check_target(job: JobConfig, host: FilesHost, names: Sequence[str]) -> None:
    """Read the target's annotations, see that its images are there, and decode those of the test set.

    Args:
        names: of what is fine-tuned on: the training datasets, or the draws of their images.

    Raises:
        NDSError: annotations that cannot be read or are none; missing images; a test image that cannot be
            decoded; training and test datasets of different classes; masks that do not fit their images; ground
            truth that cannot be evaluated on; fewer images than nds.target.num_images.
    """
    tests = job.nds.TARGET.TEST
    classes = stored(host, names[0]).classes()
    for name in (*names, *tests):
        dataset = stored(host, name)
        check_same_classes(name, dataset.classes(), names[0], classes)
        index = dataset.index()
        check_images(name, index, 0.0 if name in tests else job.nds.LOADER.MAX_UNREADABLE)
        dataset.check()
        if name in names:
            check_annotated(name, index, dataset.why_no_object)
    for name in job.nds.TARGET.DATASETS:
        if name not in names:
            check_images(name, host.dataset(name).index(), job.nds.LOADER.MAX_UNREADABLE)
    check_heads(job.cfg, [stored(host, name).view() for name in names], None, "")
    for name in tests:
        has_masks(stored(host, name))
    for name in tests:  # last, since it takes longest
        check_decodable(name, stored(host, name).index())


def label_space(job: JobConfig, host: FilesHost, *, partial: bool = True) -> LabelSpace:
    """The united classes of the sources.

    Raises:
        NDSError: a class mapping that names unknown classes.
    """
    sources = list(job.nds.SOURCE.DATASETS)
    classes = [stored(host, name).classes() for name in sources]
    return unite(classes, job.nds.SOURCE.LABEL_MAPPING or None, sources, partial=partial)


def check_source(job: JobConfig, host: FilesHost) -> None:
    """What the classes of source and target, and their masks, tell before experts are trained.

    Raises:
        NDSError: a bad class mapping; no shared class where nds.transfer.require_shared_classes is set;
            heads that cannot learn from these sources, or cannot be transferred to the target.
    """
    space = label_space(job, host, partial=False)
    target = stored(host, job.nds.TARGET.TRAIN[0]).classes()
    check_shared_classes(space.classes, target, job.nds, str.lower)
    views = [stored(host, name).view() for name in job.nds.SOURCE.DATASETS]
    pretraining = merged(job.cfg, job.nds.PRETRAIN)
    check_heads(pretraining, views, space, "nds.pretrain.")
    check_transfer(pretraining, job.cfg, space.classes, target)


def check_heads(cfg: Config, views: Sequence[StoreView], space: LabelSpace | None, prefix: str) -> None:
    """See that a stage's heads can learn from what the images have.

    Raises:
        NDSError: boxes without masks, or label spaces that differ, and heads or a pipeline that do not know of them.
    """
    head = cfg.model.roi_head
    mixed = is_kind(MODELS, head.type, NDSRoIHead)
    masks = bool(head.get("mask_head"))
    if space is not None and not mixed and space.partial:
        raise NDSError(
            f"{prefix}model.roi_head is {head.type}, and the sources label different classes: an object that its source does "
            "not label would be learnt as background. Take type='NDSRoIHead' (in place of StandardRoIHead; other heads of "
            "MMDetection have no such loss), sources of the same classes, or a class mapping that makes them the same."
        )
    if not masks:
        return
    missing = _without_masks(views)
    if not missing:
        return
    if not mixed:
        raise NDSError(
            f"{prefix}model.roi_head is {head.type}, and objects of {few(missing)} have no mask, from which its mask head "
            "cannot learn: take type='NDSRoIHead' (in place of StandardRoIHead), a model without mask_head, or sources with masks."
        )
    steps = cfg.train_dataloader.dataset.pipeline
    if not any(is_kind(TRANSFORMS, step["type"], NDSLoadAnnotations) for step in steps):
        raise NDSError(
            f"{prefix}train_dataloader.dataset.pipeline must load by NDSLoadAnnotations in place of LoadAnnotations: objects "
            f"of {few(missing)} have no mask."
        )


def _without_masks(views: Sequence[StoreView]) -> list[str]:
    """The sources that have an object without a mask."""
    found = []
    for view in views:
        columns = object_columns([view])
        if not (columns.has_mask | columns.iscrowd).all():
            found.append(view.source)
    return found
