"""Rows that fine-tune a classifier from self-supervised weights: Tables 1 and 2, and their CPU-sized ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nds_plugin.experiments.estimate import (
    PlannedRow,
    Stage,
    Work,
    expert_work,
    planned_row,
    pretraining_rows,
)
from nds_plugin.experiments.mixture import told_mixture
from nds_plugin.experiments.results import classifier_details, classifier_record
from nds_plugin.experiments.rows import Cell, Grid, Row, differing, failed_of
from nds_plugin.experiments.ssl_grids import targets_of
from nds_plugin.files.artifacts import content_hash, plain
from nds_plugin.images.networks import choose_device
from nds_plugin.pipeline.settings_from_cfg import source_datasets
from nds_plugin.report.measures import ACCURACIES
from nds_plugin.report.paper import paper_table
from nds_plugin.report.result_table import ResultTable, build_table
from nds_plugin.report.run_files import WORK
from nds_plugin.report.table_formats import markdown
from nds_plugin.selection.selectors import SELECTORS, Need
from nds_plugin.ssl.config import JobConfig, load_config
from nds_plugin.ssl.main_job import check_config
from nds_plugin.ssl.network import SmallImageResNet, multiply_adds
from nds_plugin.ssl.settings import NetworkConfig


@dataclass(frozen=True)
class Speed:
    """Images a second in training: so many of a network at images of ``size`` pixels; the time grows with its multiply-adds."""

    images: float
    network: NetworkConfig
    size: int

    @property
    def multiply_adds(self) -> int:
        """For one image."""
        return multiply_adds(self.network, self.size)

    def at(self, adds: float) -> float:
        """Images a second of a network that does so many multiply-adds for one."""
        return self.images * self.multiply_adds / adds


# By method of pretraining; the classifier's is "". On a GPU assumed for a ResNet-18 in 16 bits; there is no published
# figure. On one core measured in seconds of the processor: Xeon with bf16 units, 16 channels, the configs of ssl_mini
# (a linear classifier).
_GPU, _CPU = NetworkConfig(stem="half"), NetworkConfig(stem="half", width=16)
GPU_SPEED = {
    "moco": Speed(2_500.0, _GPU, 64),
    "rotnet": Speed(1_000.0, _GPU, 64),
    "": Speed(2_500.0, _GPU, 64),
}
CPU_SPEED = {"moco": Speed(727.0, _CPU, 32), "rotnet": Speed(341.0, _CPU, 32), "": Speed(800.0, _CPU, 64)}
# What the results depend on of cfg.NDS, beside what the selector's own steps read.
_PLAIN_KEYS = ("SELECTOR", "TARGET")
_DRAWN_KEYS = (*_PLAIN_KEYS, "MODE", "BUDGET", "SOURCE")
_NOT_OF_THE_ROW = ("SEED", "WORK_DIR", "LOADER", "PRESET")
_METHODS = {"moco": "MoCo", "rotnet": "RotNet"}


@dataclass(frozen=True)
class SSLWork(Work):
    """What one run does, at the speed of self-supervision.

    Attributes:
        method: of pretraining.
        pretrain_adds, finetune_adds: multiply-adds of the network for one image.
        weights: files of weights that it leaves.
    """

    method: str = ""
    pretrain_adds: float = 1.0
    finetune_adds: float = 1.0
    weights: int = 1

    @property
    def kept_bytes(self) -> int:
        """Weights alone; no checkpoint is left."""
        return self.parameters * 4 * self.weights

    @property
    def running_bytes(self) -> int:
        """Those of one training at a time: each removes its checkpoints at its end."""
        return self.checkpoint_bytes * self.finetune.checkpoints

    @property
    def pretrain_hours(self) -> float:
        return (
            self.pretrain.images / self._speed(self.method, self.pretrain_adds) / 3600
            if self.pretrain
            else 0.0
        )

    @property
    def finetune_hours(self) -> float:
        images = self.finetune.images + self.test_images / 3
        return images / self._speed("", self.finetune_adds) / 3600

    def _speed(self, method: str, adds: float) -> float:
        return (GPU_SPEED if self.on_gpu else CPU_SPEED)[method].at(adds)


class ClassifierRows:
    """See :class:`~nds_plugin.experiments.row_kinds.RowKind`."""

    module = "nds_plugin.commands.train_ssl"
    means: tuple[str, ...] = tuple(ACCURACIES)

    def row_config(self, row: Row, extra: Sequence[str] = ()) -> JobConfig:
        return load_config(row.base, [*row.overrides, *extra])

    def config_hash(self, cfg: JobConfig) -> str:
        return content_hash(deciding_settings(cfg))[:16]

    def changed_settings(self, cfg: JobConfig, usual: JobConfig) -> dict[str, Any]:
        return differing(deciding_settings(cfg), deciding_settings(usual))

    def check(self, cfg: JobConfig, output: Path, processes: int) -> None:
        tree = copy.deepcopy(cfg.cfg)
        tree["OUTPUT_DIR"], tree.NDS["WORK_DIR"] = str(output), str(output / WORK)
        check_config(JobConfig(tree, cfg.network, cfg.pretrain, cfg.finetune), processes)

    def on_gpu(self, cfg: JobConfig) -> bool:
        return choose_device(cfg.cfg.DEVICE).type == "cuda"

    def planned(
        self, grid: Grid, configs: Mapping[Row, Any], cells: Sequence[Cell], to_run: Sequence[Row]
    ) -> list[PlannedRow]:
        planned, targets = [], targets_of(grid, grid.clients)
        rows = dict.fromkeys(cell.row for cell in cells)
        pretraining = pretraining_rows(rows, to_run, {row: configs[row].pretrain.method for row in rows})
        for row in rows:
            target = targets[row.client]
            counts = grid.test_images[target], grid.train_images.get(target, 0)
            planned.append(
                planned_row(row, planned_work(configs[row], *counts, row in pretraining), cells, to_run)
            )
        return planned

    def arithmetic(self, rows: Sequence[PlannedRow]) -> list[str]:
        on_gpu = rows[0].work.on_gpu
        speeds = GPU_SPEED if on_gpu else CPU_SPEED
        origin = (
            "assumed for a ResNet-18 on one GPU in 16 bits, no published figure"
            if on_gpu
            else "measured on one core of a Xeon with bf16 units"
        )
        row = next((row for row in rows if row.work.pretrain), rows[0])
        lines = [
            f"How: images a second {origin}: MoCo {_told(speeds['moco'])}, RotNet (four rotations of each) "
            f"{_told(speeds['rotnet'])}, classifier {_told(speeds[''])} multiply-adds an image; the time grows with "
            "their number. A pretraining that several targets share is counted once."
        ]
        if row.work.pretrain:
            hours = row.work.pretrain_hours
            lines.append(f"  {row.name}: {row.work.pretrain.images:,} images of pretraining = {hours:.2f} h")
        return lines

    def record(
        self, cell: Cell, document: Mapping[str, Any], config_hash: str, seconds: float
    ) -> dict[str, Any]:
        return classifier_record(cell, document, config_hash, seconds)

    def details(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return classifier_details(document)

    def tables(
        self,
        grid: Grid,
        entries: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        failed: Mapping[Cell, str],
    ) -> dict[str, ResultTable]:
        return {method: self._table(grid, method, entries, seeds, failed) for method in grid.clients}

    def _table(
        self,
        grid: Grid,
        method: str,
        entries: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        failed: Mapping[Cell, str],
    ) -> ResultTable:
        """Targets as columns, as the paper prints them."""
        clients = targets_of(grid, [method])
        rows = [(row.selector, row.budget) for row in grid.rows if row.client in clients]
        title = f"{_METHODS[method]}: {grid.title}" if len(grid.clients) > 1 else grid.title
        return build_table(
            list(dict.fromkeys(rows)),
            by_target(entries, clients),
            title=title,
            source=grid.source,
            categories=grid.categories[method],
            seeds=seeds,
            paper=paper_table(grid.name),
            failed=failed_of(failed, clients),
            digits=grid.digits,
            from_random=grid.from_random,
            means=(),
            targets=grid.categories[method],
        )

    def page(
        self,
        tables: Mapping[str, ResultTable],
        current: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],  # noqa: ARG002
        stem: str,  # noqa: ARG002
    ) -> str:
        parts = [f"### {_METHODS[method]}\n\n{markdown(table)}" for method, table in tables.items()]
        parts += told_mixture(current)
        seconds = sum(entry["seconds"] for entry in current)
        parts.append(f"{len(current)} cells took {seconds / 3600:.1f} hours.\n")
        return "\n".join(parts)


def by_target(entries: Sequence[Mapping[str, Any]], clients: Mapping[str, str]) -> list[dict[str, Any]]:
    """Cells of several targets as one of each row and seed, with the targets' top-1 in the place of categories.

    Args:
        clients: the target of each client that counts.
    """
    found: dict[tuple[str, float, int], dict[str, Any]] = {}
    for entry in entries:
        if entry["client"] not in clients:
            continue
        key = (entry["selector"], entry["budget"], entry["seed"])
        empty: dict[str, Any] = dict(zip(("selector", "budget", "seed"), key), per_category={})
        found.setdefault(key, empty)["per_category"][clients[entry["client"]]] = entry["top1"]
    return list(found.values())


def deciding_settings(job: JobConfig) -> dict[str, Any]:
    """The settings that make a row what it is, see :func:`nds_plugin.d2.config.deciding.deciding_settings`.

    All of ``PRETRAIN``, those of another method, too: finished cells are kept under this.
    """
    nds = job.nds
    selector = SELECTORS[nds.SELECTOR] if job.pretrains else None
    keys: Sequence[str] = _PLAIN_KEYS
    if selector is not None:
        foreign = {name.upper() for name in SELECTORS if name != selector.name}
        keys = (
            [key for key in nds if key not in foreign]
            if selector.needs
            else [*_DRAWN_KEYS, selector.name.upper()]
        )
    found = {f"NDS.{key}": nds[key] for key in keys if key in nds and key not in _NOT_OF_THE_ROW}
    if selector is not None:
        found["PRETRAIN"] = job.pretrain.identity()
    used = {*nds.TARGET.TRAIN, *nds.TARGET.TEST, *nds.TARGET.DATASETS}
    if selector is not None:
        used |= {*source_datasets(nds)}
    found["FOLDERS"] = {name: folder for name, folder in job.cfg.FOLDERS.items() if name in used}
    found |= {
        "MODEL": job.network.identity(),
        "MODEL.WEIGHTS": job.network.weights,
        "FINETUNE": job.finetune.identity(),
    }
    flat: dict[str, Any] = plain(found)
    return flat


def planned_work(cfg: JobConfig, test_images: int, train_images: int, trains: bool) -> SSLWork:
    """What one run does, for the estimate of its cost.

    Args:
        test_images, train_images: of the target.
        trains: whether it pretrains, and does not take another run's weights.
    """
    nds = cfg.nds
    needs = SELECTORS[nds.SELECTOR].needs if cfg.pretrains else Need.NOTHING
    experts = expert_work(nds, needs)
    with torch.device("meta"):
        network = SmallImageResNet(cfg.network, 1)
    return SSLWork(
        pretrain=_stage(cfg.pretrain) if trains else None,
        finetune=_stage(cfg.finetune),
        test_images=test_images,
        expert_crops=experts.steps * nds.EXPERTS.BATCH_SIZE,
        describing_crops=experts.describing_steps * nds.EXPERTS.BATCH_SIZE,
        scored=(nds.SCORING.MAX_IMAGES or train_images) * 4 * experts.networks,
        parameters=sum(p.numel() for p in network.parameters()),
        states=2,
        on_gpu=cfg.cfg.DEVICE != "cpu",
        method=cfg.pretrain.method,
        pretrain_adds=multiply_adds(cfg.network, cfg.pretrain.size),
        finetune_adds=multiply_adds(cfg.network, cfg.finetune.size),
        weights=1 + cfg.pretrains + trains,  # the classifier, detectron2.pth, and a trunk that others link to
    )


def _told(speed: Speed) -> str:
    return f"{speed.images:,.0f} at {speed.multiply_adds / 1e6:,.0f} M"


def _stage(config: Any) -> Stage:
    return Stage(config.iterations, config.batch_size, 2)  # while it runs
