#!/usr/bin/env python
"""All that needs a GPU, once, at real sizes: does it run, and how fast?

    python benchmarks/gpu_check.py --page output/gpu_check.md

The same code at CPU size, which the tests run:

    python benchmarks/gpu_check.py --device cpu --tiny

Parts: training Mask R-CNN (R50-FPN at 800 pixels, mixed precision) by our trainer; one rank of NCCL,
with gradients through DistributedDataParallel compared with those of the bare network; training and
scoring of experts in mixed precision; scoring beside the bare forward pass on a batch that lies
on the device; and MoCo and RotNet, which stop at a checkpoint and go on, and a classifier on their
weights. All images are made on the spot. The last line is JSON. Exit status 1: a part failed.
Without a GPU nothing is run, the line says why, and the status is 0.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import forward_clock, generate_images
from self_supervised import SIDE, write_rows

from nds_plugin.command_line import documented_parser, run
from nds_plugin.engine.processes import OneProcess
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ExpertConfig, ScoringConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.images.networks import (
    InferenceNetwork,
    build_network,
    choose_device,
    precision_name,
    resolve_precision,
)
from nds_plugin.job.training_folder import FINAL
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.classify import Labelled, evaluate, finetune
from nds_plugin.ssl.network import trunk
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import METHODS, FinetuneConfig, NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run

logger = logging.getLogger("gpu_check")
Result = dict[str, Any]
WARM_UP = 5  # iterations that are not timed: memory is found, kernels are chosen


@dataclass(frozen=True)
class Sizes:
    """How much of everything; tiny sizes show on a CPU that the code runs, and nothing else."""

    config: str = "Base-NDS-RCNN-FPN.yaml"
    short_edge: int = 800
    batch: int = 8
    iterations: int = 60
    images: int = 512
    experts: int = 8
    crop: int = 224
    steps: int = 100
    crops_a_step: int = 64
    forward_batch: int = 256
    workers: int = 8
    width: int = 64
    small_batch: int = 256


TINY = Sizes("Base-NDS-thin.yaml", 64, 1, WARM_UP + 1, 6, 2, 32, 2, 2, 4, 0, 4, 16)


def train_detector(device: torch.device, sizes: Sizes, folder: Path) -> Result:
    """Seconds of an iteration of our trainer, and the share of them that the loader took."""
    from nds_plugin.d2 import NDSTrainer, load_config  # before Detectron2, whose import it keeps quiet

    # isort: split
    from detectron2.engine import HookBase

    from nds_plugin.d2.data.known_datasets import register_coco_folder
    from nds_plugin.datasets.sample.generate import generate

    generate(folder / "sample", train_images=4 * sizes.batch, val_images=1, domains=["street"])
    register_coco_folder(folder / "sample", "gpu_check")
    cfg = load_config(
        sizes.config,
        [
            *("MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(folder / "detector")),
            *("DATASETS.TRAIN", "('gpu_check_street_train',)", "DATASETS.TEST", "()"),
            *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"),  # from random weights
            *("SOLVER.AMP.ENABLED", "True", "SOLVER.BASE_LR", "0.0005", "SOLVER.STEPS", "()"),
            *("SOLVER.IMS_PER_BATCH", str(sizes.batch), "SOLVER.MAX_ITER", str(sizes.iterations)),
            *("INPUT.MIN_SIZE_TRAIN", f"({sizes.short_edge},)", "DATALOADER.NUM_WORKERS", str(sizes.workers)),
        ],
    )
    Path(cfg.OUTPUT_DIR).mkdir()
    clock: list[float] = []
    waits: list[float] = []
    losses: list[float] = []

    class Clock(HookBase):  # type: ignore[misc]
        def after_step(self) -> None:
            _wait(device)
            clock.append(time.perf_counter())
            waits.append(self.trainer.storage.history("data_time").latest())
            losses.append(self.trainer.storage.history("total_loss").latest())

    trainer = NDSTrainer(cfg, [Clock()])
    trainer.train()
    if not np.isfinite(losses).all():
        raise RuntimeError(f"the loss is not finite: {losses}")
    steps = np.diff(clock)[WARM_UP - 1 :]
    return {
        "seconds_an_iteration": round(float(np.median(steps)), 4),
        "images_a_second": round(sizes.batch / float(np.median(steps)), 1),
        "loader_share": round(float(np.sum(waits[WARM_UP:]) / np.sum(steps)), 3),
        "gpu_memory_gb": _peak_memory(device),
    }


def one_rank(device: torch.device, sizes: Sizes, folder: Path) -> Result:
    """A process group of one rank: gradients through it are those of the bare network."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    backend = "nccl" if device.type == "cuda" else "gloo"
    store = f"file://{folder / 'rendezvous'}"
    distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        network = build_network(4).to(device).eval()
        inputs = torch.randn(4, 3, sizes.crop, sizes.crop, device=device)
        network(inputs).square().mean().backward()
        bare = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        network.zero_grad()
        parallel = DistributedDataParallel(
            network, device_ids=[device.index or 0] if backend == "nccl" else None
        )
        parallel(inputs).square().mean().backward()
        theirs = [p.grad for p in network.parameters() if p.grad is not None]
        total = torch.ones(1, device=device)
        distributed.all_reduce(total)
        worst = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(bare, theirs))
        if total.item() != 1 or worst > 1e-3:
            raise RuntimeError(f"all_reduce of 1 gave {total.item()}; gradients differ by {worst}")
    finally:
        distributed.destroy_process_group()
    return {"backend": backend, "largest_difference_of_gradients": float(f"{worst:.1e}")}


def experts_of(device: torch.device, sizes: Sizes, folder: Path) -> tuple[ExpertSet, Result]:
    """Experts trained in mixed precision on generated pictures."""
    generate_images(folder / "images", sizes.images)
    paths = list_images(folder / "images")
    index = SourceIndex.from_records([ImageRecord("gpu_check", str(i), path) for i, path in enumerate(paths)])
    cluster = np.arange(len(paths)) % sizes.experts
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    config = ExpertConfig(
        crop_size=sizes.crop,
        steps=sizes.steps,
        shared_steps=sizes.steps,
        batch_size=sizes.crops_a_step,
        num_workers=sizes.workers,
    )
    start = time.perf_counter()
    experts = train_experts(index, partition, config, folder / "experts", device=device)
    seconds = time.perf_counter() - start
    steps = sizes.steps * (sizes.experts + 1)
    return experts, {
        "precision": precision_name(resolve_precision("auto", device)),
        "seconds": round(seconds, 1),
        "steps_a_second": round(steps / seconds, 2),
        "gpu_memory_gb": _peak_memory(device),
    }


def score(device: torch.device, sizes: Sizes, experts: ExpertSet, paths: Sequence[str]) -> Result:
    """Scoring in all, beside its own forward passes and the bare forward pass on a resident batch."""
    config = ScoringConfig(num_workers=sizes.workers)
    score_experts(experts, paths[: len(paths) // 2], config, device)  # warm
    with forward_clock(device) as forward:
        start = time.perf_counter()
        scores = score_experts(experts, paths, config, device)
        seconds = time.perf_counter() - start
    passes = 4 * len(paths) * (sizes.experts + 1)  # four rotations; the shared network is scored, too
    bare = _bare_passes_a_second(device, sizes, experts)
    return {
        "images": scores.images,
        "images_a_second": round(scores.images / seconds, 1),
        "passes_a_second": round(passes / seconds),
        "bare_passes_a_second": round(bare),
        "share_of_bare": round(passes / seconds / bare, 3),
        "forward_share": round(sum(forward) / seconds, 3),
    }


def _bare_passes_a_second(device: torch.device, sizes: Sizes, experts: ExpertSet) -> float:
    dtype = resolve_precision("auto", device)
    network = InferenceNetwork(experts.load_model(experts.clusters[0]).eval(), dtype).to(device)
    inputs = torch.randn(sizes.forward_batch, 3, sizes.crop, sizes.crop, device=device)
    with torch.inference_mode():
        for _ in range(WARM_UP):
            network(inputs)
        _wait(device)
        start = time.perf_counter()
        for _ in range(20):
            network(inputs)
        _wait(device)
    return 20 * sizes.forward_batch / (time.perf_counter() - start)


def self_supervised(device: torch.device, sizes: Sizes, folder: Path) -> Result:
    """Both methods, in fp16 with its scaler too where there is a GPU, and a classifier on the weights of each."""
    rows, found = write_rows(folder), {}
    for precision in ("auto", "fp16") if device.type == "cuda" else ("auto",):
        for method in METHODS:
            name = f"{method}_{precision}"
            found[name] = _one_method(device, sizes, folder / name, rows, method, precision)
    return {
        **{f"{name}_images_a_second": speed for name, speed in found.items()},
        "gpu_memory_gb": _peak_memory(device),
    }


def _one_method(
    device: torch.device, sizes: Sizes, folder: Path, rows: MappedRows, method: str, precision: str
) -> float:
    """Images a second of pretraining from a checkpoint on."""
    folder.mkdir()
    network, size, half = NetworkConfig(width=sizes.width), sizes.small_batch, sizes.iterations // 2
    config = PretrainConfig(
        size=SIDE, method=method, version=2, batch_size=size, queue=4 * size, base_lr=0.001, iterations=2 * half, precision=precision
    )  # fmt: skip
    how = Run(0, OneProcess(), device, sizes.workers)
    for last in (half, 2 * half):
        training, learner = prepared(folder, network, config, how)
        first = training.start(last > half)
        stream = ShuffledStream(np.arange(len(rows)), 0)
        batches = Batches(rows, stream, 0, size, first, last, groups=config.bn_groups, keys=learner.views > 1)
        start = time.perf_counter()
        training.run(batches.loader(how.workers, device), first)
        _wait(device)
        seconds = time.perf_counter() - start
        training.save(last)
    training.finish(trunk(learner.trunk), {"method": method})
    target = Labelled(rows, np.arange(len(rows)) % 4, ("a", "b", "c", "d"))
    tuned = FinetuneConfig(size=SIDE, iterations=half, linear=True, precision=precision)
    weights = finetune(folder / "finetune", "key", network, tuned, target, folder / FINAL, how)
    few = Labelled(rows, target.labels[:size], target.classes)
    if evaluate(weights, network, tuned, few, device)["images"] != size:
        raise RuntimeError(f"not all of {size} images were tested")
    return round(half * size / seconds, 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 2)


def check(device: torch.device, sizes: Sizes, folder: Path) -> dict[str, Result]:
    """All parts; one that fails is reported and does not keep the others from running."""
    found: dict[str, Result] = {}
    kept: list[ExpertSet] = []

    def train_them() -> Result:
        experts, result = experts_of(device, sizes, folder)
        kept.append(experts)
        return result

    parts: dict[str, Callable[[], Result]] = {
        "detector": lambda: train_detector(device, sizes, folder),
        "one_rank": lambda: one_rank(device, sizes, folder),
        "experts": train_them,
        "scoring": lambda: score(device, sizes, kept[0], list_images(folder / "images")),
        "self_supervised": lambda: self_supervised(device, sizes, folder),
    }
    for name, part in parts.items():
        start = time.perf_counter()
        try:
            found[name] = part()
        except Exception as error:
            logger.exception("%s failed", name)
            found[name] = {"failed": f"{type(error).__name__}: {error}"}
        logger.info("%s: %.0f s, %s", name, time.perf_counter() - start, found[name])
    return found


def page(document: Result) -> str:
    """The result as a page of the docs."""
    lines = [
        "# GPU check",
        "",
        f"Written by `make gpu-check` on {document['device']}, torch {document['torch']}, in {document['seconds']:.0f} s.",
        "",
        "| part | what | value |",
        "|---|---|---|",
    ]
    for part, values in document["parts"].items():
        lines += [f"| {part.replace('_', ' ')} | {k.replace('_', ' ')} | {v} |" for k, v in values.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts, print one line, write the page."""
    parser = documented_parser(__doc__)
    parser.add_argument("--device", default="", help="by default the first GPU")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--page", help="Markdown file to write")
    args = parser.parse_args()
    if not args.device and not torch.cuda.is_available():
        print(
            json.dumps({"skipped": "torch sees no GPU here; --device cpu --tiny runs the code without one"})
        )
        return
    device = choose_device(args.device)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        parts = check(device, TINY if args.tiny else Sizes(), Path(folder))
    document = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU",
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "parts": parts,
    }
    if args.page:
        with atomic_write(Path(args.page), "w") as file:
            file.write(page(document))
    print(json.dumps(document))
    if any("failed" in part for part in parts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
