"""The main job: select, pretrain, fine-tune, evaluate; every step skipped that is done and still valid."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode as CN
from detectron2.utils import comm

from nds_plugin.d2.data.drawn_dataset import selection_label_space
from nds_plugin.d2.data.fingerprints import dataset_fingerprint
from nds_plugin.d2.data.host import DetectronHost
from nds_plugin.d2.data.registration import dataset_classes
from nds_plugin.d2.job.checks import (
    check_config,
    check_source,
    check_source_files,
    check_target,
    check_weights,
)
from nds_plugin.d2.train import stages as training
from nds_plugin.d2.train.hooks import Rescore
from nds_plugin.d2.train.pretrained import evaluate_pretrained
from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import KIND as SCORES_KIND
from nds_plugin.files.artifacts import content_hash, is_valid, read_json
from nds_plugin.job.kept_pretraining import KeptPretraining, source_labels
from nds_plugin.job.results import KIND as RESULTS_KIND
from nds_plugin.job.results import summarise, write_results
from nds_plugin.job.selecting import check_selects, run_selection, write_draw
from nds_plugin.job.selection_summary import Timings, kept_results, selection_summary
from nds_plugin.job.training_folder import FINAL
from nds_plugin.job.transfer_report import kept_report
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.pipeline.selection_steps import Selected, SelectionSteps
from nds_plugin.pipeline.settings import PipelineSettings
from nds_plugin.pipeline.settings_from_cfg import pipeline_settings
from nds_plugin.report.run_files import WORK, located

logger = logging.getLogger(__name__)
FRAMEWORKS = ("detectron2",)


@dataclass(frozen=True)
class _Pretrained:
    """What pretraining leaves: the selection, its config, weights and key, and its results where they were asked for."""

    selected: Selected
    cfg: CN
    weights: Path
    key: str
    results: dict[str, Any] | None


def check_job(cfg: CN, processes: int | None = None) -> None:
    """Refuse at once what would otherwise fail after hours; see :func:`checks.check_config`.

    Raises:
        NDSError: settings of any step that cannot work.
    """
    check_config(cfg, processes)
    if cfg.NDS.SELECTOR != NO_PRETRAINING:
        _settings(cfg)


def selection_steps(cfg: CN, timed: Timings) -> SelectionSteps:
    """The selecting half of a job: all that it is told of ``cfg``.

    Raises:
        NDSError: settings that cannot work.
    """
    return SelectionSteps(
        _settings(cfg),
        DetectronHost(),
        Path(cfg.NDS.WORK_DIR or Path(cfg.OUTPUT_DIR) / WORK),
        device=torch.device(cfg.MODEL.DEVICE),
        timed=timed,
        check=lambda index, _: check_source(cfg, index),
    )


def _settings(cfg: CN) -> PipelineSettings:
    """The client's images are NDS.TARGET.DATASETS, else those that it fine-tunes on."""
    return pipeline_settings(cfg, cfg.NDS.TARGET.DATASETS or training.finetune_datasets(cfg))


def run(cfg: CN, *, resume: bool = False) -> dict[str, Any]:
    """Run the main job; every process of the job calls it.

    Args:
        cfg: a config with ``cfg.NDS``.
        resume: go on from checkpoints even if the config has changed since (``--resume``). An
            interrupted run of the same config goes on without it.

    Returns:
        The results document (see ``results.json``) on the main process, {} on the others.
    """
    check_job(cfg)
    _check_data(cfg)
    if comm.is_main_process():
        check_weights(cfg)  # last, since it may download them
    timed = Timings()
    pretrained = _pretrain(cfg, timed, resume) if cfg.NDS.SELECTOR != NO_PRETRAINING else None
    finetune_cfg = training.finetune_config(cfg)
    data = training.target_fingerprint(cfg)
    if pretrained:
        classes, masks = dataset_classes(cfg.DATASETS.TRAIN[0]), pretrained.cfg.MODEL.MASK_ON
        start = training.transfer_into(finetune_cfg, pretrained.weights, classes, masks)
        inputs = [pretrained.key, cfg.NDS.TRANSFER.dump(), *data]
    else:
        start = None
        inputs = [training.weights_fingerprint(cfg), *data]
    finetune_key = training.training_key(finetune_cfg, inputs)
    weights = training.train(finetune_cfg, finetune_key, resume=resume, timed=timed, initialise=start)
    return _results(cfg, finetune_cfg, weights, finetune_key, pretrained, timed)


def select_only(cfg: CN) -> None:
    """``--select-only``: select, and write the page of it; every process of the job calls it.

    Args:
        cfg: see :func:`run`.

    Raises:
        NDSError: the selector is none.
    """
    check_selects(cfg.NDS.SELECTOR)
    check_job(cfg)
    _check_data(cfg)
    timed = Timings()
    write_draw(
        selection_steps(cfg, timed),
        timed,
        Path(cfg.OUTPUT_DIR),
        training.finetune_datasets(cfg),
        cfg.dump(),
        rescored=cfg.NDS.RESCORE.ITERS,
        frameworks=FRAMEWORKS,
    )


def _check_data(cfg: CN) -> None:
    """On the main process: read what can be refused before training."""
    if comm.is_main_process():
        check_target(cfg)
        check_source_files(cfg)


def _pretrain(cfg: CN, timed: Timings, resume: bool) -> _Pretrained:
    """Select, pretrain and, where it is asked for, test the pretrained detector on the target."""
    steps = selection_steps(cfg, timed)
    selected = run_selection(steps)
    pretrain_cfg = training.pretrain_config(cfg, selected)
    hooks = [Rescore(cfg.NDS.RESCORE.ITERS, steps.rescore)] if cfg.NDS.RESCORE.ITERS else []
    source = cfg.NDS.SOURCE
    inputs = [
        selected.key,
        agreed(steps.host, lambda: source_labels(steps.host, source.DATASETS, source.LABEL_MAPPING)),
        training.weights_fingerprint(pretrain_cfg),
    ]
    if hooks:  # what is scored again: the experts, the client's images, and how
        inputs.append(read_json(Path(selected.paths["scores"]), SCORES_KIND)["key"])
    key = training.training_key(pretrain_cfg, inputs)
    # What follows new scores during training is this client's own.
    kept = KeptPretraining(steps.folder, key) if cfg.NDS.WORK_DIR and not hooks else None
    with kept.shared(Path(pretrain_cfg.OUTPUT_DIR), steps.host) if kept else contextlib.nullcontext():
        weights = training.train(pretrain_cfg, key, resume=resume, timed=timed, extra_hooks=hooks)
    results = None
    if cfg.NDS.EVALUATE_PRETRAINED:
        with timed("evaluate_pretrained"):
            results = evaluate_pretrained(cfg, pretrain_cfg, weights, key)
    return _Pretrained(selected, pretrain_cfg, weights, key, results)


def evaluate_only(cfg: CN, weights: str | None) -> dict[str, Any]:
    """``--eval-only``: evaluate given weights, else the fine-tuned ones of OUTPUT_DIR.

    Raises:
        NDSError: neither is there.
    """
    check_config(cfg)
    finetune_cfg = training.finetune_config(cfg)
    path = Path(weights) if weights else Path(finetune_cfg.OUTPUT_DIR) / FINAL
    if not path.is_file():
        raise NDSError(f"--eval-only: no weights at {path}: train first, or give MODEL.WEIGHTS PATH.")
    results = training.evaluate(finetune_cfg, path)
    if not comm.is_main_process():
        return {}
    return {name: summarise(result, dataset_classes(name)) for name, result in results.items()}


def _results(
    cfg: CN,
    finetune_cfg: CN,
    weights: Path,
    finetune_key: str,
    pretrained: _Pretrained | None,
    timed: Timings,
) -> dict[str, Any]:
    """Evaluate unless that is done, and write results.json and the report."""
    path = Path(cfg.OUTPUT_DIR) / "results.json"
    tests = [[name, dataset_fingerprint(name)] for name in cfg.DATASETS.TEST]
    before = pretrained.results if pretrained else None
    also = ["pretrained"] if before is not None else []
    key = content_hash([RESULTS_KIND, finetune_key, tests, finetune_cfg.TEST.dump(), *also])
    if comm.all_gather(is_valid(path, RESULTS_KIND, key))[0]:
        logger.info("evaluation: kept %s", path)
        selected = pretrained.selected if pretrained else None
        return kept_results(path, selected, cfg.dump()) if comm.is_main_process() else {}
    with timed("evaluate"):
        results = training.evaluate(finetune_cfg, weights)
    if not comm.is_main_process():
        return {}
    first, *others = cfg.DATASETS.TEST
    extra = {
        "target": list(finetune_cfg.DATASETS.TRAIN),
        "test": first,
        "selector": cfg.NDS.SELECTOR,
        "selection": selection_summary(
            pretrained.selected if pretrained else None, path.parent, cfg.NDS.RESCORE.ITERS
        ),
        "label_space": _label_space(cfg, pretrained.selected) if pretrained else None,
        "pretrained": before,
        "transfer": kept_report(Path(finetune_cfg.OUTPUT_DIR)) if pretrained else None,
        "other_tests": {name: summarise(results[name], dataset_classes(name)) for name in others},
    }
    write_results(
        path,
        results[first],
        cfg.dump(),
        cfg.NDS.SEED,
        timed.seconds,
        dataset_classes(first),
        key,
        extra,
        FRAMEWORKS,
    )
    return located(cfg.OUTPUT_DIR, read_json(path, RESULTS_KIND))


def _label_space(cfg: CN, selected: Selected) -> dict[str, Any]:
    """The united classes of the sources, and which of them were united by more than an equal name."""
    sources = selected.selection.sources
    return selection_label_space(sources, cfg.NDS.SOURCE.LABEL_MAPPING).to_dict()
