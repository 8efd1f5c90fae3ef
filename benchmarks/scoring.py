#!/usr/bin/env python
"""Scoring: ours against the plain way, both in one run, on the same images and experts.

    python benchmarks/scoring.py --images my_photos

CPU-sized, on generated pictures (the default: noise and gradients of 640 x 480, saved as JPEG):

    python benchmarks/scoring.py --num-images 50 --num-experts 2 --crop-size 64

On a processor with bf16 (AVX512-BF16, AMX), what one without it would show, by fp32 and AVX2 on both sides:

    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/scoring.py --precision fp32

The plain way: one loader pass per expert that decodes every image again, float32, the default
memory layout, 32 crops in four rotations per batch, plain calls of the network in eval mode. Both
sides score the same experts and the shared network, from the same files, with the same number of
loader workers. The last line is JSON: vs_plain (plain time / our time; the goal is 3), forward_share
(time of the bare forward passes over our whole time) and z_max_diff (largest difference of an
accuracy between the two). Then both kinds of experts at K = 50 (expert_kinds.py), on --num-scored of the
images: heads_vs_networks_k50 (time of 50 networks / time of 50 heads on one frozen network; the goal is 20),
set_mb_heads and set_mb_networks (what a client downloads; the goal is 25 MB for heads).
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from expert_kinds import backbone_of_heads, compare_kinds
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models import ResNet
from tqdm import tqdm

from nds_plugin.command_line import run
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ExpertConfig, ScoringConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.images.crop_geometry import center_crop
from nds_plugin.images.networks import (
    MEAN,
    STD,
    InferenceNetwork,
    choose_device,
    precision_name,
    resolve_precision,
)
from nds_plugin.images.precisions import PRECISIONS
from nds_plugin.images.reading import load_image
from nds_plugin.source.image_folders import list_images
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger("benchmark")
PLAIN_BATCH = 32


def generate_images(folder: Path, count: int) -> None:
    """Pictures of 640 x 480 with the spectrum and the clear "up" of photographs, but no content."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64([7, number]))
        layers = [rng.normal(0, 40, (side * 3, side * 4, 3)).astype(np.float32) for side in (2, 8, 32, 128)]
        picture = np.zeros((480, 640, 3), dtype=np.float32)
        for weight, layer in zip((1.0, 0.7, 0.5, 0.35), layers):
            channels = [
                Image.fromarray(layer[..., c]).resize((640, 480), Image.Resampling.BICUBIC) for c in range(3)
            ]
            picture += weight * np.stack([np.asarray(c) for c in channels], axis=-1)
        # From no hint of "up" to a clear one, so that accuracies lie between chance and 1.
        clarity = rng.random()
        horizon = int(rng.integers(180, 300))
        picture[:horizon] += clarity * np.linspace(60, 20, horizon)[:, None, None]
        picture[horizon:] -= clarity * np.linspace(10, 50, 480 - horizon)[:, None, None]
        Image.fromarray(np.clip(picture + 120, 0, 255).astype(np.uint8)).save(
            folder / f"{number:04d}.jpg", quality=90
        )


def make_experts(paths: list[str], args: argparse.Namespace, folder: Path, device: torch.device) -> ExpertSet:
    """Experts that were trained for a few steps, so that their answers are not a toss-up."""
    index = SourceIndex.from_records([ImageRecord("benchmark", str(i), path) for i, path in enumerate(paths)])
    cluster = np.arange(len(paths)) % args.num_experts
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    config = ExpertConfig(
        crop_size=args.crop_size,
        steps=4,
        shared_steps=40,
        batch_size=2,
        base_lr=0.02,
        precision=args.precision,
    )
    return train_experts(index, partition, config, folder, device=device)


class _PlainImages(Dataset[torch.Tensor]):
    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        crop = torch.from_numpy(center_crop(load_image(self.paths[row]), self.size))
        crop = crop.permute(2, 0, 1).contiguous().float() / 255
        return (crop - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def plain_accuracy(network: ResNet, paths: list[str], size: int, workers: int, device: torch.device) -> float:
    """Rotation accuracy of one expert, written without a thought of speed."""
    network = network.eval().to(device)
    correct = 0
    for images in DataLoader(_PlainImages(paths, size), batch_size=PLAIN_BATCH, num_workers=workers):
        inputs = torch.cat([torch.rot90(images, k, dims=(2, 3)) for k in range(4)]).to(device)
        targets = torch.arange(4).repeat_interleave(len(images)).to(device)
        with torch.inference_mode():
            correct += int((network(inputs).argmax(dim=1) == targets).sum())
    return correct / (4 * len(paths))


def cpu_seconds() -> float:
    """Processor time of this process and of the loader workers that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def time_plain(
    experts: ExpertSet, paths: list[str], workers: int, device: torch.device
) -> tuple[float, npt.NDArray[np.float64]]:
    """Seconds and accuracies of the plain way, the shared network last."""
    start, cpu = time.perf_counter(), cpu_seconds()
    z = []
    for cluster in tqdm([*experts.clusters, None], desc="plain", disable=None):
        network = experts.load_shared() if cluster is None else experts.load_model(cluster)
        z.append(plain_accuracy(network, paths, experts.crop_size, workers, device))
    logger.info("plain: %.2f s of processor time", cpu_seconds() - cpu)
    return time.perf_counter() - start, np.array(z)


@contextmanager
def forward_clock(device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds of every forward pass of an :class:`InferenceNetwork`."""
    seconds: list[float] = []
    started = [0.0]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, InferenceNetwork):
            started[0] = now()

    def after(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, InferenceNetwork):
            seconds.append(now() - started[0])

    hooks = torch.nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def time_ours(
    experts: ExpertSet, paths: list[str], workers: int, device: torch.device, precision: str
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """Seconds in all, seconds in forward passes, and accuracies, the shared network last."""
    with forward_clock(device) as seconds:
        start, cpu = time.perf_counter(), cpu_seconds()
        scores = score_experts(
            experts, paths, ScoringConfig("accuracy", precision=precision, num_workers=workers), device
        )
        total = time.perf_counter() - start
    logger.info("ours: %.2f s of processor time", cpu_seconds() - cpu)
    return total, sum(seconds), np.array([*scores.z, scores.details["shared"]["accuracy"]["z"]])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder of photographs; pictures are generated by default")
    parser.add_argument("--num-images", type=int, default=64, help="images to score, 50 or more (default 64)")
    parser.add_argument("--num-experts", type=int, default=8, help="K (default 8)")
    parser.add_argument("--num-scored", type=int, default=32, help="images scored at K = 50 (default 32)")
    parser.add_argument("--crop-size", type=int, default=224, help="in pixels (default 224)")
    parser.add_argument("--num-workers", type=int, default=2, help="loader processes, both sides (default 2)")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="of the experts' training and our side (default auto)",
    )
    parser.add_argument("--device", default="", help="by default a GPU if there is one")
    return parser.parse_args()


def main() -> None:
    """Make images and experts, time both sides and print the ratio."""
    args = parse_arguments()
    device = choose_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        if args.images is None:
            logger.info("generating %d pictures of noise and gradients, 640 x 480", args.num_images)
            generate_images(Path(folder, "images"), args.num_images)
        paths = list_images(args.images or Path(folder, "images"))[: args.num_images]
        backbone = backbone_of_heads(paths)
        experts = make_experts(paths, args, Path(folder, "experts"), device)
        # Ours before and after the plain way, so that a machine that slows down favours neither.
        first, first_forward, z = time_ours(experts, paths, args.num_workers, device, args.precision)
        plain, plain_z = time_plain(experts, paths, args.num_workers, device)
        second, second_forward, _ = time_ours(experts, paths, args.num_workers, device, args.precision)
        kinds = compare_kinds(
            experts, backbone, paths, args.num_scored, args.num_workers, Path(folder), device
        )
    ours, forward = (first + second) / 2, (first_forward + second_forward) / 2
    logger.info("ours:  %.2f and %.2f s; accuracies %s", first, second, z.round(4))
    logger.info("plain: %.2f s; accuracies %s", plain, plain_z.round(4))
    logger.info(
        "%d images, %d experts and the shared network, crops of %d pixels, %s in %s, %d threads, %d workers",
        len(paths), args.num_experts, args.crop_size, device,
        precision_name(resolve_precision(args.precision, device)), torch.get_num_threads(), args.num_workers,
    )  # fmt: skip
    result = {
        "vs_plain": round(plain / ours, 2),
        "forward_share": round(forward / ours, 3),
        "z_max_diff": round(float(np.abs(z - plain_z).max()), 5),
        **kinds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
