"""The main job in MMDetection: select, pretrain, fine-tune, evaluate; what is done and still valid is skipped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook

from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import KIND as SCORES_KIND
from nds_plugin.files.artifacts import content_hash, is_valid, plain, read_json, write_json
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.job.checks import warn_of_seen_tests
from nds_plugin.job.kept_pretraining import KeptPretraining, source_labels
from nds_plugin.job.results import KIND as RESULTS_KIND
from nds_plugin.job.results import summarise, write_results
from nds_plugin.job.selecting import check_selects, run_selection, write_draw
from nds_plugin.job.selection_summary import Timings, kept_results, selection_summary
from nds_plugin.job.shared_classes import KIND as PRETRAINED_KIND
from nds_plugin.job.shared_classes import over_shared, renamed_classes, shared_classes
from nds_plugin.job.training_folder import FINAL
from nds_plugin.job.transfer import checkpoint_classes
from nds_plugin.job.transfer_report import kept_report
from nds_plugin.mm.config.loading import JobConfig
from nds_plugin.mm.job.checks import check_config, check_source, check_target, label_space, warn_of_batches
from nds_plugin.mm.job.evaluation import (
    DetectionResults,
    coco_results,
    detect,
    has_masks,
    truth_file,
    voc_results,
    voc_truth,
    without_annotations,
)
from nds_plugin.mm.job.host import MMHost
from nds_plugin.mm.job.named_dataset import named, stored
from nds_plugin.mm.job.stage_configs import (
    finetune_config,
    has_mask_head,
    initial_weights,
    pretrain_config,
    training_key,
)
from nds_plugin.mm.job.stages import model_with, train, transfer_into
from nds_plugin.mm.train.rescore_hook import NDSRescoreHook
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.pipeline.selection_steps import Selected, SelectionSteps
from nds_plugin.report.run_files import located

logger = logging.getLogger(__name__)
FRAMEWORKS = ("mmdet", "mmcv", "mmengine")


@dataclass(frozen=True)
class _Pretrained:
    """What pretraining leaves: the selection, its config, weights and key, and its results where they were asked for."""

    selected: Selected
    cfg: Config
    weights: Path
    key: str
    results: dict[str, Any] | None


class MainJob:
    """One run of the main job; all its processes make one and call :meth:`run`.

    Args:
        job: what it is told.
        launcher: of its processes, as MMEngine calls it.
        resume: go on from checkpoints even if the config has changed since (``--resume``). An interrupted run
            of the same config goes on without it.

    Raises:
        NDSError: settings of any step that cannot work.
    """

    def __init__(self, job: JobConfig, *, launcher: str = "none", resume: bool = False) -> None:
        self.job, self.nds = job, job.nds
        self.launcher, self.resume = launcher, resume
        self.host = MMHost(job.nds.DATASETS)
        self.timed = Timings()
        check_config(job, self.host)
        self.test_pipeline = without_annotations(job.cfg.test_dataloader.dataset.pipeline)
        count = job.nds.TARGET.NUM_IMAGES
        self.targets = tuple(
            self.host.subset(name, count, job.nds.SEED) if count else name for name in job.nds.TARGET.TRAIN
        )
        self.selecting = job.nds.SELECTOR != NO_PRETRAINING
        self.settings = (
            job.settings(tuple(job.nds.TARGET.DATASETS) or self.targets) if self.selecting else None
        )

    def run(self) -> dict[str, Any]:
        """Make what is missing.

        Returns:
            The results document (see ``results.json``) on the main process, {} on the others.
        """
        agreed(self.host, self._checked)
        if self.host.rank == 0:
            warn_of_batches(self.job, self.host.world_size)
        pretrained = self._pretrain() if self.settings else None
        classes = stored(self.host, self.targets[0]).classes()
        cfg = finetune_config(self.job, classes)
        inputs = [self.host.dataset(name).fingerprint() for name in self.targets]
        start = None
        if pretrained:
            transfer = self.nds.TRANSFER
            inputs = [pretrained.key, plain(transfer.to_dict()), *inputs]
            start = transfer_into(
                Path(cfg.work_dir),
                pretrained.weights,
                classes,
                masks=has_mask_head(pretrained.cfg),
                loose=transfer.LOOSE_NAMES,
                require_shared=transfer.REQUIRE_SHARED_CLASSES,
            )
        key = training_key(cfg, inputs)
        weights = self._train(cfg, key, classes, start)
        return self._results(cfg, weights, key, pretrained)

    def select_only(self) -> None:
        """``--select-only``: select, and write the page of it."""
        check_selects(self.nds.SELECTOR)
        agreed(self.host, self._checked)
        write_draw(
            self.steps(),
            self.timed,
            self.job.work_dir,
            self.targets,
            self.job.text,
            rescored=self.nds.RESCORE.ITERS,
            frameworks=FRAMEWORKS,
        )

    def _checked(self) -> str:
        """On the main process: read what can be refused before training."""
        if self.selecting:
            warn_of_seen_tests(self.nds.SOURCE.DATASETS, self.nds.TARGET.TEST, "nds.target.test")
        check_target(self.job, self.host, self.targets)
        return ""

    def steps(self) -> SelectionSteps:
        """The selecting half."""
        assert self.settings is not None
        return SelectionSteps(
            self.settings,
            self.host,
            self.job.artefacts,
            device=torch.device(get_device()),
            timed=self.timed,
            check=lambda *_: check_source(self.job, self.host),
        )

    def _pretrain(self) -> _Pretrained:
        """Select, pretrain and, where it is asked for, test the pretrained detector on the target."""
        steps = self.steps()
        selected = run_selection(steps)
        space = label_space(self.job, self.host)
        cfg = pretrain_config(self.job, selected.path, selected.selection.sources, space)
        iters = self.nds.RESCORE.ITERS
        hooks = [NDSRescoreHook(iters, score=steps.rescore)] if iters else []
        source = self.nds.SOURCE
        labels = agreed(self.host, lambda: source_labels(self.host, source.DATASETS, source.LABEL_MAPPING))
        inputs: list[Any] = [selected.key, labels, initial_weights(cfg)]
        if hooks:  # what is scored again: the experts, the client's images, and how
            inputs += [list(iters), read_json(Path(selected.paths["scores"]), SCORES_KIND)["key"]]
        key = training_key(cfg, inputs)
        # What follows new scores during training is this client's own.
        kept = KeptPretraining(steps.folder, key) if self.nds.WORK_DIR and not hooks else None
        with kept.shared(Path(cfg.work_dir), self.host) if kept else contextlib.nullcontext():
            weights = self._train(cfg, key, space.classes, None, hooks)
        results = None
        if self.nds.EVALUATE_PRETRAINED:
            with self.timed("evaluate_pretrained"):
                results = self._evaluate_pretrained(cfg, weights, key)
        return _Pretrained(selected, cfg, weights, key, results)

    def _train(
        self, cfg: Config, key: str, classes: Sequence[str], start: Any, hooks: Sequence[Hook] = ()
    ) -> Path:
        return train(
            cfg,
            key,
            classes,
            launcher=self.launcher,
            resume=self.resume,
            timed=self.timed,
            initialise=start,
            extra_hooks=hooks,
        )

    def _test_loader(self, name: str) -> dict[str, Any]:
        loader = dict(self.job.cfg.test_dataloader)
        sampler = {"type": "DefaultSampler", "shuffle": False}
        dataset = named(self.job.nds.DATASETS, name, pipeline=self.test_pipeline, test_mode=True)
        return {**loader, "dataset": dataset, "sampler": sampler, "batch_sampler": None, "drop_last": False}

    def _evaluate(
        self, cfg: Config, weights: Path, name: str, target_of: Sequence[int] | None = None
    ) -> dict[str, dict[str, float]] | None:
        """COCO's results of weights on a test dataset, on the main process; None on others.

        Args:
            cfg: of the stage that made the weights.
            target_of: the target's class of each of the model's, -1 for none; by default it tells the target's.
        """
        dataset = stored(self.host, name)
        voc = voc_truth(dataset)
        ids = dataset.view().store.category_ids if voc is None else range(len(dataset.classes()))
        told = list(ids) if target_of is None else [ids[t] if t >= 0 else None for t in target_of]
        masks = voc is None and has_mask_head(cfg) and has_masks(dataset)
        model = model_with(cfg, weights)
        found = detect(model, self._test_loader(name), DetectionResults(told, masks))
        if found is None:
            return None
        if voc is not None:
            return voc_results(voc, found)
        return coco_results(truth_file(dataset, Path(cfg.work_dir) / "inference"), found, masks)

    def _test_key(self, cfg: Config) -> list[Any]:
        """What the evaluation depends on beside the weights; ``cfg`` is of the stage that made them."""
        tests = [[name, self.host.dataset(name).fingerprint()] for name in self.nds.TARGET.TEST]
        return [tests, plain(self.test_pipeline), plain(cfg.model.get("test_cfg"))]

    def _evaluate_pretrained(self, cfg: Config, weights: Path, pretrain_key: str) -> dict[str, Any]:
        """Results on the first test dataset over the shared classes, kept in pretrained.json; {} on other processes."""
        name, path = self.nds.TARGET.TEST[0], self.job.work_dir / "pretrained.json"
        key = agreed(self.host, lambda: content_hash([PRETRAINED_KIND, pretrain_key, self._test_key(cfg)]))
        if not self.host.all_gather(is_valid(path, PRETRAINED_KIND, key))[0]:
            source, target = checkpoint_classes(read_checkpoint(weights)), stored(self.host, name).classes()
            target_of, shared = shared_classes(source, target)
            results = self._evaluate(cfg, weights, name, target_of)
            if results is not None:
                found = over_shared(results, shared, target)
                found["renamed"] = renamed_classes(source, target_of, target)
                write_json(path, PRETRAINED_KIND, key, found)
            self.host.barrier()
        return read_json(path, PRETRAINED_KIND) if self.host.rank == 0 else {}

    def _results(
        self, cfg: Config, weights: Path, key: str, pretrained: _Pretrained | None
    ) -> dict[str, Any]:
        """Evaluate unless that is done, and write results.json."""
        path = self.job.work_dir / "results.json"
        also = ["pretrained"] if pretrained and pretrained.results is not None else []
        key = agreed(self.host, lambda: content_hash([RESULTS_KIND, key, self._test_key(cfg), *also]))
        selected = pretrained.selected if pretrained else None
        if self.host.all_gather(is_valid(path, RESULTS_KIND, key))[0]:
            logger.info("evaluation: kept %s", path)
            return kept_results(path, selected, self.job.text) if self.host.rank == 0 else {}
        with self.timed("evaluate"):
            results = {name: self._evaluate(cfg, weights, name) for name in self.nds.TARGET.TEST}
        if self.host.rank != 0:
            return {}
        classes = stored(self.host, self.targets[0]).classes()
        first, *others = self.nds.TARGET.TEST
        extra = {
            "target": list(self.targets),
            "test": first,
            "selector": self.nds.SELECTOR,
            "selection": selection_summary(selected, path.parent, self.nds.RESCORE.ITERS),
            "label_space": label_space(self.job, self.host).to_dict() if pretrained else None,
            "pretrained": pretrained.results if pretrained else None,
            "transfer": kept_report(Path(cfg.work_dir)) if pretrained else None,
            "other_tests": {name: summarise(results[name] or {}, classes) for name in others},
        }
        write_results(
            path,
            results[first] or {},
            self.job.text,
            self.nds.SEED,
            self.timed.seconds,
            classes,
            key,
            extra,
            FRAMEWORKS,
        )
        return located(self.job.work_dir, read_json(path, RESULTS_KIND))

    def evaluate_only(self, weights: str | None) -> dict[str, Any]:
        """``--eval-only``: summaries of given weights, else of the fine-tuned ones, by the name of the test dataset.

        Raises:
            NDSError: neither is there.
        """
        classes = stored(self.host, self.targets[0]).classes()
        cfg = finetune_config(self.job, classes)
        path = Path(weights) if weights else Path(cfg.work_dir) / FINAL
        if not path.is_file():
            raise NDSError(f"--eval-only: no weights at {path}: train first, or give --eval-only PATH.")
        found = {name: self._evaluate(cfg, path, name) for name in self.nds.TARGET.TEST}
        return {name: summarise(r, classes) for name, r in found.items() if r is not None}
