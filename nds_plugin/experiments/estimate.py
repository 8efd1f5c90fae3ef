"""What a grid costs before anything is run: GPU hours and disk, from published throughput, with the arithmetic.

Detectron2's MODEL_ZOO.md, 8 V100: Mask R-CNN R50-FPN 1x trains at 0.261 s per iteration of 16 images;
R50-FPN on Cityscapes at 0.240 s per iteration of 8, and tests at 0.078 s per image. It has no figure
for a classifier: the speed of the experts' ResNet-18 is our assumption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from nds_plugin.experiments.rows import CORE_IMAGES, Cell, Row
from nds_plugin.experts.manifest import HEAD
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.selection.selectors import SELECTORS, Need

SOURCE = "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md"
PRETRAIN_IMAGE = 0.261 * 8 / 16  # GPU seconds per image
FINETUNE_IMAGE = 0.240 * 8 / 8
TEST_IMAGE = 0.078
EXPERT_INPUT = 1 / 1000  # GPU seconds of a ResNet-18 in training per input of 224 pixels: assumed
EXPERT_FORWARD = 1 / 3000  # and in a forward pass: assumed
CPU_EXPERT_INPUT = 1 / 90  # core seconds at 64 pixels, on the machine of docs/benchmark.md
ROTATIONS = 4


@dataclass(frozen=True)
class Stage:
    """A training: iterations, images per iteration, and how many checkpoints it leaves."""

    iterations: int
    batch: int
    checkpoints: int

    @property
    def images(self) -> int:
        return self.iterations * self.batch


@dataclass(frozen=True)
class Work:
    """What one run does.

    Attributes:
        pretrain: None where there is none.
        test_images: that are evaluated, all passes together.
        expert_crops: of the shared network and all experts of one set, which the runs of a work folder share; 0 where none
            is needed.
        scored: inputs of the client's scoring, once per run.
        parameters: of the detector.
        states: numbers kept per parameter in a checkpoint (weight, momentum, ...).
        on_gpu: else on one core.
        core_images: images a second that one core trains on or tests.
        describing_crops: as expert_crops, of experts that describe the source and are trained on datasets of their own.
    """

    pretrain: Stage | None
    finetune: Stage
    test_images: int
    expert_crops: int
    scored: int
    parameters: int
    states: int
    on_gpu: bool
    core_images: float = CORE_IMAGES
    describing_crops: int = 0

    @property
    def pretrain_hours(self) -> float:
        """GPU (or core) hours of pretraining."""
        images = self.pretrain.images if self.pretrain else 0
        return images * (PRETRAIN_IMAGE if self.on_gpu else 1 / self.core_images) / 3600

    @property
    def finetune_hours(self) -> float:
        """GPU (or core) hours of fine-tuning and testing."""
        train, test = (
            (FINETUNE_IMAGE, TEST_IMAGE) if self.on_gpu else (1 / self.core_images, 1 / self.core_images)
        )
        return (self.finetune.images * train + self.test_images * test) / 3600

    @property
    def scoring_hours(self) -> float:
        """GPU (or core) hours of scoring the client's images."""
        return self.scored * (EXPERT_FORWARD if self.on_gpu else CPU_EXPERT_INPUT / 3) / 3600

    @property
    def hours(self) -> float:
        """All of the run but the experts."""
        return self.pretrain_hours + self.finetune_hours + self.scoring_hours

    @property
    def expert_hours(self) -> float:
        """Of training shared network and experts, once."""
        return self._training_hours(self.expert_crops)

    @property
    def describing_hours(self) -> float:
        """Of training the experts that describe the source, and their shared network, once."""
        return self._training_hours(self.describing_crops)

    def _training_hours(self, crops: int) -> float:
        return crops * ROTATIONS * (EXPERT_INPUT if self.on_gpu else CPU_EXPERT_INPUT) / 3600

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint, 4 bytes a number."""
        return self.parameters * self.states * 4

    @property
    def kept_bytes(self) -> int:
        """What a finished cell leaves: the last checkpoint of each stage."""
        return self.checkpoint_bytes * (2 if self.pretrain else 1)

    @property
    def running_bytes(self) -> int:
        """What a cell holds at its end, before intermediate checkpoints are removed."""
        stages = [stage for stage in (self.pretrain, self.finetune) if stage]
        return self.checkpoint_bytes * sum(stage.checkpoints for stage in stages)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the plan: its name, what a run of it does, and how many cells are to run and finished."""

    name: str
    work: Work
    to_run: int
    finished: int


@dataclass(frozen=True)
class ExpertWork:
    """What a selector asks of experts.

    Attributes:
        networks: that see the client's images.
        steps: of training, on the source: the shared network and the experts.
        describing_steps: on datasets of their own, of experts that describe the source. What they then do on its images is not
            counted.
    """

    networks: int
    steps: int
    describing_steps: int = 0


def expert_work(nds: Any, needs: Need) -> ExpertWork:
    """What a selector with these needs asks of experts; ``nds`` is ``cfg.NDS``."""
    describing = Need.DESCRIPTION in needs
    # Experts of a folder may be of any number: as many as here is a guess.
    experts = nds.PARTITION.NUM_CLUSTERS if describing or Need.EXPERTS in needs else 0
    if nds.EXPERTS.KIND == HEAD:  # on one frozen network: no step of training
        return ExpertWork(int(experts > 0), 0)
    shared, named = nds.EXPERTS.SHARED_STEPS, bool(nds.PARTITION.NETWORK or nds.PARTITION.WEIGHTS)
    own = Need.EXPERTS in needs
    return ExpertWork(
        experts + int(experts > 0 and shared > 0),
        shared * (own or (bool(needs) and not named)) + experts * nds.EXPERTS.STEPS * own,
        (shared + experts * nds.EXPERTS.STEPS) * (describing and not nds.SNDS.EXPERTS),
    )


def looks_at_client(row: Row) -> bool:
    """Whether its selection is made from the client's images, or from scores on them."""
    return row.selector != NO_PRETRAINING and bool(SELECTORS[row.selector].needs)


def pretraining_rows(
    rows: Collection[Row], to_run: Sequence[Row], methods: Mapping[Row, str] | None = None
) -> set[Row]:
    """The rows that a pretraining is counted for: of those that would pretrain alike, and share it, the one that is run most.

    Args:
        to_run: a row as often as it is to be run.
        methods: of pretraining, where there are several.
    """
    alike: dict[Any, list[Row]] = {}
    for row in rows:
        if row.selector != NO_PRETRAINING:
            own = tuple(pair for pair in row.own if not pair[0].startswith("NDS.TARGET."))
            drawn = (row.selector, row.budget, own, (methods or {}).get(row))
            # A selection that looks at the client is the client's alone.
            alike.setdefault(row if looks_at_client(row) else drawn, []).append(row)
    return {max(group, key=to_run.count) for group in alike.values()}


def planned_row(row: Row, work: Work, cells: Sequence[Cell], to_run: Sequence[Row]) -> PlannedRow:
    """A row of the plan of some cells; ``to_run`` has a row as often as it is to be run."""
    count = sum(cell.row == row for cell in cells)
    return PlannedRow(row.name, work, to_run.count(row), count - to_run.count(row))


def plan_text(
    title: str,
    rows: Sequence[PlannedRow],
    jobs: int,
    keep_checkpoints: bool = False,
    arithmetic: Sequence[str] | None = None,
    expert_sets: int = 1,
) -> str:
    """The plan of a grid: what is run, hours and disk, and how they were computed.

    Args:
        arithmetic: the lines that say how; by default those of detectors.
        expert_sets: that are to be trained: one, or one for each seed.
    """
    on_gpu = rows[0].work.on_gpu
    unit = "GPU h" if on_gpu else "core h"
    header = ["row", "to run", "finished", "pretrain", "fine-tune", f"{unit} a run", unit, "GB a run"]
    body = [
        [
            row.name,
            row.to_run,
            row.finished,
            _stage(row.work.pretrain),
            _stage(row.work.finetune),
            f"{row.work.hours:.2f}",
            f"{row.work.hours * row.to_run:.1f}",
            f"{(row.work.running_bytes if keep_checkpoints else row.work.kept_bytes) / 1e9:.2f}",
        ]
        for row in rows
    ]
    table = tabulate(body, header, disable_numparse=True, colalign=("left", *["right"] * 7))
    # Rows of one source share them.
    todo = [row.work for row in rows if row.to_run]
    experts = expert_sets * (
        max((work.expert_hours for work in todo), default=0.0)
        + max((work.describing_hours for work in todo), default=0.0)
    )
    times = "once" if expert_sets == 1 else f"once a seed ({expert_sets})"
    runs = sum(row.work.hours * row.to_run for row in rows)
    lines = [
        title,
        "",
        table,
        "",
        f"{sum(row.to_run for row in rows)} cells to run, {sum(row.finished for row in rows)} finished.",
        f"Time: {runs:.1f} {unit} of runs + {experts:.1f} {unit} of experts, {times} = {runs + experts:.1f} {unit}"
        + ("." if on_gpu else f"; {(runs + experts) / jobs:.1f} h on {jobs} idle cores."),
        _disk(rows, jobs, keep_checkpoints),
        "",
        *(detector_arithmetic(rows) if arithmetic is None else arithmetic),
    ]
    return "\n".join(lines) + "\n"


def _stage(stage: Stage | None) -> str:
    return f"{stage.iterations:,} x {stage.batch}" if stage else "-"


def _disk(rows: Sequence[PlannedRow], jobs: int, keep: bool) -> str:
    todo = [row for row in rows if row.to_run]
    each = [(row.work.running_bytes if keep else row.work.kept_bytes) * row.to_run for row in todo]
    kept = sum(each) / 1e9
    peak = 0 if keep else max((row.work.running_bytes for row in todo), default=0) * jobs / 1e9
    work = max((row.work for row in todo), key=lambda w: w.running_bytes, default=rows[0].work)
    return (
        f"Disk: {kept:.1f} GB of checkpoints + {peak:.1f} GB while {jobs} run at a time; one checkpoint is "
        f"{work.parameters / 1e6:.1f} M parameters x {work.states} numbers x 4 bytes = "
        f"{work.checkpoint_bytes / 1e9:.3f} GB. The datasets are not counted."
    )


def _example(rows: Sequence[PlannedRow]) -> PlannedRow:
    return next((row for row in rows if row.work.pretrain), rows[0])


def detector_arithmetic(rows: Sequence[PlannedRow]) -> list[str]:
    """How the hours of detectors were computed."""
    return _gpu_arithmetic(rows) if rows[0].work.on_gpu else _cpu_arithmetic(rows)


def _gpu_arithmetic(rows: Sequence[PlannedRow]) -> list[str]:
    row = _example(rows)
    work, pretrain = row.work, row.work.pretrain
    lines = [
        f"How (throughput on 8 V100: {SOURCE}):",
        f"  pretraining: 0.261 s x 8 GPUs / 16 images = {PRETRAIN_IMAGE:.4f} GPU s an image (Mask R-CNN R50-FPN 1x)",
    ]
    if pretrain:
        lines.append(
            f"    {row.name}: {pretrain.images:,} images x {PRETRAIN_IMAGE:.4f} / 3600 = {work.pretrain_hours:.2f} GPU h"
        )
    lines += [
        f"  fine-tuning: 0.240 s x 8 GPUs / 8 images = {FINETUNE_IMAGE:.3f} GPU s an image (R50-FPN, Cityscapes)",
        f"    {work.finetune.images:,} x {FINETUNE_IMAGE:.3f} / 3600 = {work.finetune.images * FINETUNE_IMAGE / 3600:.2f} GPU h",
        f"  testing: {work.test_images:,} images x {TEST_IMAGE} s / 3600 = {work.test_images * TEST_IMAGE / 3600:.2f} GPU h",
    ]
    expert = max(rows, key=lambda r: r.work.expert_crops).work
    if expert.expert_crops:
        lines.append(
            f"  experts, once: {expert.expert_crops:,} crops x {ROTATIONS} rotations / 1,000 a second (assumed: ResNet-18 "
            f"at 224 pixels, no published figure) = {expert.expert_hours:.1f} GPU h"
        )
    describing = max(rows, key=lambda r: r.work.describing_crops).work
    if describing.describing_crops:
        lines.append(
            f"  experts that describe the source, once: {describing.describing_crops:,} crops, likewise = "
            f"{describing.describing_hours:.1f} GPU h"
        )
    return lines


def _cpu_arithmetic(rows: Sequence[PlannedRow]) -> list[str]:
    row = _example(rows)
    work = row.work
    images = (work.pretrain.images if work.pretrain else 0) + work.finetune.images + work.test_images
    return [
        f"How: {row.name}: {images:,} images (training and test) at {work.core_images:g} a second on an idle core of a "
        f"2-core EPYC = {images / work.core_images / 60:.1f} minutes. A pretraining that several clients share is counted "
        "once."
    ]
