#!/usr/bin/env python
"""Does self-supervised pretraining wait for its images? Memory-mapped rows against a tensor in memory.

    python benchmarks/self_supervised.py
    python benchmarks/self_supervised.py --method rotnet --width 64 --batch-size 256

Both loops do the same steps on the same images of 32 pixels, in turns; the ratio is of the seconds of their fastest
turns, so that what else the machine does weighs little. Prints one JSON line: {"loader_ratio": in memory / memory-mapped,
"images_per_s": of the memory-mapped loop, ...}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nds_plugin.command_line import documented_parser, run
from nds_plugin.engine.processes import OneProcess
from nds_plugin.images.networks import choose_device, precision_name
from nds_plugin.job.results import machine
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batch, Batches
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run, Training

SIDE, IMAGES, FILES = 32, 20_000, 10


class RowsInMemory(MappedRows):
    """The same images in one tensor."""

    def __init__(self, rows: MappedRows) -> None:
        self.pixels = rows.rows(np.arange(len(rows)))

    def __len__(self) -> int:
        return len(self.pixels)

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        return self.pixels[torch.from_numpy(indices)]


def write_rows(folder: Path) -> MappedRows:
    """Images of noise in as many files as Downsampled ImageNet has batches."""
    each = IMAGES // FILES
    files = []
    for number in range(FILES):
        files.append(str(folder / f"{number}.npy"))
        pixels = np.random.default_rng(number).integers(0, 256, (each, SIDE, SIDE, 3), dtype=np.uint8)
        np.save(files[-1], pixels)
    place = np.arange(IMAGES)
    return MappedRows(files, place // each, place % each)


def batches(rows: MappedRows, config: PretrainConfig) -> Iterator[Batch]:
    """Of a long training."""
    stream = ShuffledStream(np.arange(len(rows)), 0)
    keys = config.method == "moco"
    return iter(Batches(rows, stream, 0, config.batch_size, 0, 10**6, groups=config.bn_groups, keys=keys))


def seconds(training: Training, source: Iterator[Batch], steps: int) -> float:
    """Of some steps of the loop."""
    start = time.perf_counter()
    for iteration in range(steps):
        float(training.step(training.model, next(source).to(training.device), iteration))
    return time.perf_counter() - start


def main() -> None:
    parser = documented_parser(__doc__)
    parser.add_argument("--method", choices=("moco", "rotnet"), default="moco")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--steps", type=int, default=4, help="in a turn (default 4)")
    parser.add_argument("--turns", type=int, default=7, help="of each loop (default 7)")
    measure(parser.parse_args())


def measure(args: argparse.Namespace) -> None:
    device = choose_device()
    config = PretrainConfig(
        size=SIDE, method=args.method, batch_size=args.batch_size, queue=16 * args.batch_size, base_lr=0.001
    )
    network = NetworkConfig(width=args.width, stem=args.stem)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder))
        training, _ = prepared(Path(folder), network, config, Run(0, OneProcess(), device))
        training.model.train()
        loops = {"mapped": batches(rows, config), "memory": batches(RowsInMemory(rows), config)}
        for loop in loops.values():
            seconds(training, loop, 2)
        found: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(args.turns):
            for name, loop in loops.items():
                found[name].append(seconds(training, loop, args.steps))
    mapped, memory = (min(found[name]) for name in ("mapped", "memory"))
    told = {
        "loader_ratio": round(memory / mapped, 3),
        "images_per_s": round(args.steps * args.batch_size / mapped, 1),
        "method": args.method,
        "width": args.width,
        "stem": args.stem,
        "batch_size": args.batch_size,
        "precision": precision_name(training.dtype),
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    run(main)
