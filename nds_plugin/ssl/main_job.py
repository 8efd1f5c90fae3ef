"""The main job of self-supervision: select, pretrain, fine-tune a classifier, evaluate; what is done is skipped."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nds_plugin.datasets.class_folder import ClassFolder
from nds_plugin.engine.processes import OneProcess, Processes
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import (
    check_writable,
    content_hash,
    file_hash,
    is_valid,
    plain,
    read_json,
    write_json,
)
from nds_plugin.files.checkpoints import read_checkpoint, write_checkpoint
from nds_plugin.images.networks import choose_device, resolve_precision
from nds_plugin.job.checks import warn_of_seen_tests
from nds_plugin.job.kept_pretraining import KeptPretraining
from nds_plugin.job.results import KIND as RESULTS_KIND
from nds_plugin.job.results import circumstances
from nds_plugin.job.selecting import check_selects, run_selection, write_draw
from nds_plugin.job.selection_summary import Timings, kept_results, selection_summary
from nds_plugin.pipeline.selection_steps import Selected, SelectionSteps
from nds_plugin.pipeline.settings_from_cfg import source_datasets
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.report.run_files import located
from nds_plugin.source.index import SourceIndex
from nds_plugin.ssl.classify import Labelled, check_counts, check_labels, evaluate, finetune
from nds_plugin.ssl.config import JobConfig
from nds_plugin.ssl.host import SSLHost
from nds_plugin.ssl.network import build_network, for_detectron2, load_trunk, read_trunk
from nds_plugin.ssl.pixels import MappedRows, check_packed
from nds_plugin.ssl.pretrain import (
    DETECTRON2,
    WEIGHTS,
    check_fills_batch,
    check_pretraining,
    check_selected,
    check_unreadable,
    decoded,
    pretrain,
    pretraining_key,
    selected_images,
)
from nds_plugin.ssl.train import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pretrained:
    """What pretraining leaves: the selection, the weights, their key, and how many images could not be read."""

    selected: Selected
    weights: Path
    key: str
    unreadable: int


def check_config(job: JobConfig, world_size: int) -> None:
    """Refuse at once what would otherwise fail after hours; reads no dataset.

    Raises:
        NDSError: numbers that do not go together, unknown datasets, initial weights that do not fit, a folder
            that cannot be written.
    """
    host = SSLHost(job.cfg.FOLDERS)
    target = job.nds.TARGET
    if not target.TRAIN or not target.TEST:
        raise NDSError("NDS.TARGET must name the target's training and test datasets: TRAIN and TEST.")
    for name in (*source_datasets(job.nds), *target.TRAIN, *target.TEST, *target.DATASETS):
        host.dataset(name)
    device = choose_device(job.cfg.DEVICE)
    for node in ("PRETRAIN", "FINETUNE") if job.pretrains else ("FINETUNE",):
        try:
            resolve_precision(job.cfg[node].PRECISION, device)
        except NDSError as error:
            raise NDSError(f"{node}.PRECISION: {error}") from None
    if job.pretrains:
        warn_of_seen_tests(job.nds.SOURCE.DATASETS, target.TEST, "NDS.TARGET.TEST")
        check_pretraining(job.pretrain, world_size)
        job.settings()
    if job.network.weights:
        network = build_network(job.network, 1, 0)
        state = read_trunk(job.network.weights, WEIGHTS, job.network)
        load_trunk(network, state, f"{WEIGHTS} {job.network.weights}")
    for folder in {job.output, job.artefacts}:
        check_writable(folder)


def check_targets(job: JobConfig, host: SSLHost) -> None:
    """Refuse a target that no classifier can learn from, or be tested on; reads its index.

    Raises:
        NDSError: datasets without classes or of different ones, images that cannot be read, or a class of fewer than two
            training images.
    """
    target = job.nds.TARGET
    first = host.dataset(target.TRAIN[0]).index().classes
    for name in (*target.TRAIN, *target.TEST):
        dataset = host.dataset(name)
        index = dataset.index()
        check_labels(index, name)
        if isinstance(dataset, ClassFolder):
            missing = [f"{path} ({why})." for path, why in dataset.unreadable().items()]
            check_unreadable(name, missing, len(index) + len(missing))
        if index.classes != first:
            raise NDSError(
                f"the target's datasets {target.TRAIN[0]!r} and {name!r} have different classes ({len(first)} and "
                f"{len(index.classes)}): they must be the same, in the same order."
            )
    labels = np.concatenate([host.dataset(name).index().column("label") for name in target.TRAIN])
    check_counts(labels, first, target.TRAIN)
    if len(labels) < (size := job.finetune.batch_size):
        logger.warning(
            "FINETUNE.BATCH_SIZE %d is larger than the %d training images of the target: a batch holds some of them more than "
            "once. Lower it.", size, len(labels),
        )  # fmt: skip
    files = [_files(host, part) for part in (target.TRAIN, target.TEST)]
    if both := files[0] & files[1]:
        logger.warning(
            "%d of %d test images are training images, too, so that the accuracy is none: do NDS.TARGET.TRAIN and "
            "TEST name the same images, or do FOLDERS lack PART?",
            len(both), len(files[1]),
        )  # fmt: skip


def _files(host: SSLHost, names: tuple[str, ...]) -> set[str]:
    return {str(file) for name in names for file in host.dataset(name).index().column("file_name")}


class MainJob:
    """One run of the main job; all its processes make one and call :meth:`run`.

    Args:
        job: what it is told.
        resume: go on from checkpoints even if the config has changed since (``--resume``).

    Raises:
        NDSError: settings of any step that cannot work.
    """

    def __init__(self, job: JobConfig, *, resume: bool = False) -> None:
        self.job, self.nds, self.resume = job, job.nds, resume
        self.host = SSLHost(job.cfg.FOLDERS)
        check_config(job, self.host.world_size)
        self.device = choose_device(job.cfg.DEVICE)
        if self.device.type == "cuda" and self.host.world_size > 1:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.timed = Timings()
        self.work = WorkFolder(job.artefacts, self.host, self.timed)

    def run(self) -> dict[str, Any]:
        """Make what is missing.

        Returns:
            The results document (see ``results.json``) on the main process, {} on the others.

        Raises:
            NDSError: bad input of any step.
        """
        target = self._target() if self.host.rank == 0 else None
        self.host.barrier()
        pretrained = self._pretrain() if self.job.pretrains else None
        document = self._classify(target, pretrained) if target else {}
        self.host.barrier()
        return document

    def select_only(self) -> None:
        """``--select-only``: select, and write the page of it."""
        check_selects(self.nds.SELECTOR)
        if self.host.rank == 0:
            check_targets(self.job, self.host)
        self.host.barrier()
        write_draw(self._steps(), self.timed, self.job.output, self.nds.TARGET.TRAIN, self.job.text)

    def _steps(self) -> SelectionSteps:
        """The selecting half."""
        return SelectionSteps(
            self.job.settings(),
            self.host,
            self.job.artefacts,
            device=self.device,
            timed=self.timed,
            check=self._check_source,
        )

    def _initial(self) -> str:
        """Hash of the weights that all starts from, empty for random ones."""
        return file_hash(self.job.network.weights) if self.job.network.weights else ""

    def _pretrain(self) -> _Pretrained:
        job, folder = self.job, self.job.output / "pretrain"
        steps = self._steps()
        selected = run_selection(steps)
        seed = job.cfg.SEED
        most = self.nds.LOADER.MAX_UNREADABLE
        images = selected_images(selected, job.pretrain.size, self.work, seed, most)
        check_selected(job.pretrain, len(images.rows))
        key = pretraining_key(job.network, job.pretrain, images, seed, self._initial())
        kept = KeptPretraining(job.artefacts, key) if self.nds.WORK_DIR else None
        shared = kept.shared(folder, self.host) if kept else contextlib.nullcontext()
        with shared:
            weights = pretrain(folder, key, job.network, job.pretrain, images, self._run(self.host))
        if self.host.rank == 0 and not _is_newer(folder / DETECTRON2, weights):
            export_for_detectron2(weights, folder / DETECTRON2)
        return _Pretrained(selected, weights, key, len(images.unreadable))

    def _check_source(self, index: SourceIndex, most: int) -> None:
        """What only the source's index can tell, before experts are trained."""
        check_packed(index.column("file_name"), self.job.pretrain.size)
        check_fills_batch(self.job.pretrain, most)

    def _run(self, processes: Processes) -> Run:
        cfg = self.job.cfg
        return Run(cfg.SEED, processes, self.device, cfg.NUM_WORKERS, self.resume, self.job.text)

    def _target(self) -> tuple[Labelled, Labelled]:
        """The training and the test images of the target, which the main process alone reads.

        Before pretraining, so that an image that cannot be read is told before it.
        """
        check_targets(self.job, self.host)
        return self._labelled(self.nds.TARGET.TRAIN), self._labelled(self.nds.TARGET.TEST)

    def _labelled(self, names: tuple[str, ...]) -> Labelled:
        """Datasets of the target as one, decoded once."""
        parts = [self.host.dataset(name).index() for name in names]
        labels = np.concatenate([index.column("label") for index in parts]).astype(np.int64)
        files = [str(name) for index in parts for name in index.column("file_name")]
        hashes = [index.hash for index in parts]
        # Training and test images alike: none may be missing from an accuracy.
        work = WorkFolder(self.job.artefacts, OneProcess(), self.timed)
        found = decoded(work, "target_pixels", hashes, files, self.job.finetune.size, ", ".join(names), 0.0)
        rows = MappedRows.of_file(found.array, np.arange(len(files)))
        return Labelled(rows, labels, parts[0].classes, found.key)

    def _classify(self, target: tuple[Labelled, Labelled], pretrained: _Pretrained | None) -> dict[str, Any]:
        """Fine-tune and evaluate, on the main process: a target is small, and its result that of any number of them."""
        job, (train, test) = self.job, target
        identity = [job.network.identity(), job.finetune.identity(), job.cfg.SEED, train.key]
        key = content_hash(["ssl finetune 4", *identity, pretrained.key if pretrained else self._initial()])
        initial = Path(job.network.weights) if job.network.weights else None
        start = pretrained.weights if pretrained else initial
        run = self._run(OneProcess())
        weights = finetune(job.output / "finetune", key, job.network, job.finetune, train, start, run)
        return self._results(key, weights, test, pretrained)

    def _results(
        self, key: str, weights: Path, test: Labelled, pretrained: _Pretrained | None
    ) -> dict[str, Any]:
        path = self.job.output / "results.json"
        key = content_hash([RESULTS_KIND, key, test.key])
        selected = pretrained.selected if pretrained else None
        if is_valid(path, RESULTS_KIND, key):
            logger.info("evaluation: kept %s", path)
            return kept_results(path, selected, self.job.text)
        with self.timed("evaluate"):
            found = evaluate(weights, self.job.network, self.job.finetune, test, self.device)
        payload = {
            "seed": self.nds.SEED,  # of the selection
            "training_seed": self.job.cfg.SEED,
            "selector": self.nds.SELECTOR,
            "method": self.job.pretrain.method if pretrained else None,
            "target": list(self.nds.TARGET.TRAIN),
            "test": list(self.nds.TARGET.TEST),
            "summary": found,
            "precision": {
                "pretrain": _precision(pretrained.weights) if pretrained else None,
                "finetune": _precision(weights),
            },
            "unreadable_images": pretrained.unreadable if pretrained else None,
            "selection": plain(selection_summary(selected, path.parent)),
            **circumstances(path.parent, self.timed.seconds, pretrains=pretrained is not None),
            "config": self.job.text,
        }
        write_json(path, RESULTS_KIND, key, payload)
        return located(path.parent, read_json(path, RESULTS_KIND))


def export_for_detectron2(weights: Path, path: Path) -> None:
    """Write the weights of a pretraining as a file for ``MODEL.WEIGHTS`` of Detectron2."""
    state = for_detectron2(read_checkpoint(weights)["model"])
    write_checkpoint(path, {"model": state, "__author__": "nds_plugin"})


def _precision(weights: Path) -> str:
    """The number format that weights were trained in."""
    return str(read_checkpoint(weights)["meta"]["precision"])


def _is_newer(path: Path, than: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns
