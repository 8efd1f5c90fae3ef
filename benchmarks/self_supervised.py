#!/usr/bin/env python
"""Does self-supervised pretraining wait for its images? Memory-mapped rows against a tensor in memory.

    python benchmarks/self_supervised.py
    python benchmarks/self_supervised.py --method rotnet --width 64 --batch-size 256 --num-workers 8
    python benchmarks/self_supervised.py --steps 2 --turns 2 --num-workers 1

The files were just written and lie in the page cache, so reading from a disk is not measured. Measured is the loop that a training runs, on images of 32 pixels: batches come through the same loader, with its workers,
and each is trained on. Both loops do the same steps on the same images, in turns, each turn with workers of its own that
are ahead by all that they may be when its time begins. The ratio is of the seconds of the fastest turns, so that what else
the machine does weighs little. Prints one JSON line: {"loader_ratio": in memory / memory-mapped, "images_per_s": of the
memory-mapped loop, ...}.

The file is not called ssl.py as the package's folder is: a script's folder comes first among those that modules are
imported from, so that ssl.py would stand in the place of the standard library's ssl, which torch imports.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nds_plugin.command_line import documented_parser, run
from nds_plugin.engine.processes import OneProcess
from nds_plugin.images.networks import choose_device, precision_name, repeatable
from nds_plugin.job.results import machine
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.ssl.batches import Batches
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.pretrain import prepared
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run, Training

SIDE, IMAGES, FILES = 32, 20_000, 10
AHEAD = 2  # batches that torch's loader has a worker make ahead


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


def seconds(
    training: Training, rows: MappedRows, config: PretrainConfig, workers: int, first: int, steps: int
) -> float:
    """Of some steps of the loop, from an iteration on, after as many as take what the workers made ahead."""
    stream, keys = ShuffledStream(np.arange(len(rows)), 0), config.method == "moco"
    size, endless = config.batch_size, first + 10**6
    made = Batches(rows, stream, 0, size, first, endless, groups=config.bn_groups, keys=keys)
    begin = first + AHEAD * workers + 1
    start = end = 0.0
    with repeatable():
        for iteration, batch in enumerate(made.loader(workers, training.device), start=first):
            training.step(training.model, batch.to(training.device), iteration)
            if iteration == begin - 1:
                start = now(training.device)
            if iteration == begin + steps - 1:
                end = now(training.device)
                break
    return end - start


def now(device: torch.device) -> float:
    """The time, when all that a GPU was told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = documented_parser(__doc__)
    parser.add_argument("--method", choices=("moco", "rotnet"), default="moco")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--stem", default="small")
    parser.add_argument("--num-workers", type=int, default=4, help="as NUM_WORKERS (default 4)")
    parser.add_argument("--steps", type=int, default=8, help="that are timed in a turn (default 8)")
    parser.add_argument("--turns", type=int, default=5, help="of each loop (default 5)")
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
        loops = {"mapped": rows, "memory": RowsInMemory(rows)}
        found: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(args.turns):
            for name, images in loops.items():
                first = turn * args.steps
                found[name].append(seconds(training, images, config, args.num_workers, first, args.steps))
    mapped, memory = (min(found[name]) for name in ("mapped", "memory"))
    told = {
        "loader_ratio": round(memory / mapped, 3),
        "images_per_s": round(args.steps * args.batch_size / mapped, 1),
        "method": args.method,
        "width": args.width,
        "stem": args.stem,
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "precision": precision_name(training.dtype),
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    run(main)
