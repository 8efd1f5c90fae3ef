"""The annotation store beside Detectron2's load_coco_json and DatasetFromList, in one run.

    python benchmarks/annotations.py                  # COCO's shape, then OpenImages'; 15 minutes, 24 GB
    python benchmarks/annotations.py --images 5000    # both shapes at 5,000 images; a minute

Synthetic files of the shapes of COCO train2017 (118,287 images, 860,001 polygons) and OpenImages V4
(1,743,042 images, 14.6 million boxes). Every measurement is a process of its own. Detectron2's side of
OpenImages' shape needs some 20 GB; where less is free, it gets the share of the images that fits, and
the table says so. The last line is JSON, of COCO's shape:

    first_record_ratio   from nothing to the first record, seconds, stock over ours (store built)
    private_memory_ratio private memory of the training process and of each of 4 loader workers, summed, that
                         holding the dataset adds, stock over ours. Private is what neither other
                         processes share nor the system can drop: Private_Dirty of /proc/PID/smaps_rollup
    random_read_ratio    reading records at random, seconds, ours over stock
    build_peak_mb        peak memory (VmHWM) of the process that builds the store
    throughput_ratio     images a second of the training loader with real images (NDS_DATA, else the
                         synthetic sample's), ours over stock; median of interleaved rounds
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import annotation_files as files
import numpy as np
from tabulate import tabulate

RECORDS = 20_000  # read at random
WORKERS = 4
_STOCK_MB_PER_MILLION = 1400  # annotations; peak of load_coco_json with boxes, measured by this script


def private_mb(pid: int | str = "self") -> float:
    """Private memory of a process in MB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty")) / 1024


def peak_mb() -> float:
    """Peak memory of this process in MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def stock(path: str) -> Any:
    """Detectron2's way: the whole file as Python objects, then packed."""
    from detectron2.data import DatasetFromList
    from detectron2.data.datasets import load_coco_json

    records = load_coco_json(path, "images")
    dataset = DatasetFromList(records, copy=False)
    del records
    gc.collect()
    return dataset


def ours(path: str) -> Any:
    """The store."""
    from nds_plugin.d2.data.store_dataset import StoreDataset
    from nds_plugin.datasets.coco.store import open_coco
    from nds_plugin.store.view import StoreView

    return StoreDataset([StoreView.whole(open_coco(path), "images", "x")])


def measure_build(path: str) -> dict[str, float]:
    """Build the store of a file."""
    from nds_plugin.datasets.coco.store import open_coco

    start = time.perf_counter()
    store = open_coco(path)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": peak_mb(), "store_mb": store.path.stat().st_size / 1e6}


def measure_side(side: str, path: str) -> dict[str, float]:
    """Load, first record, memory, random reads, memory with loader workers."""
    import detectron2.data.datasets  # noqa: F401  (imports are nobody's annotations)
    import torch

    import nds_plugin.d2.data.store_dataset
    import nds_plugin.store.view  # noqa: F401

    gc.collect()
    before, start = private_mb(), time.perf_counter()
    dataset = {"stock": stock, "ours": ours}[side](path)
    assert dataset[0]["annotations"] is not None
    first = time.perf_counter() - start
    rng = np.random.Generator(np.random.PCG64(1))
    chosen = rng.integers(0, len(dataset), RECORDS).tolist()
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for i in chosen:
            dataset[i]
        rounds.append(time.perf_counter() - start)
    own = private_mb() - before
    loader: Any = torch.utils.data.DataLoader(
        dataset, sampler=chosen[: 100 * 4], batch_size=4, num_workers=WORKERS, collate_fn=list
    )
    batches: Any = iter(loader)
    for _ in range(100):
        next(batches)
    workers = [private_mb(worker.pid) for worker in batches._workers]
    nothing_to_hold: Any = [0] * 1000
    empty: Any = torch.utils.data.DataLoader(
        nothing_to_hold, batch_size=4, num_workers=WORKERS, collate_fn=list
    )
    idle: Any = iter(empty)
    next(idle)
    nothing = [private_mb(worker.pid) for worker in idle._workers]
    return {
        "first_s": first,
        "private_mb": own,
        "worker_mb": max(0.0, statistics.mean(workers) - statistics.mean(nothing)),
        "record_us": min(rounds) / RECORDS * 1e6,
        "peak_mb": peak_mb(),
    }


def photographs(folder: Path) -> tuple[str, str, str]:
    """COCO file, image folder and name of real images: of NDS_DATA, else of the synthetic sample, made in ``folder``."""
    data = os.getenv("NDS_DATA")
    if data:
        real = Path(data, "detection", "coco_mini")
        return str(real / "train.json"), str(real / "images"), "NDS_DATA's coco_mini"
    from nds_plugin.datasets.sample.generate import generate

    generate(folder, train_images=200, val_images=1, size=(320, 240), domains=["city"])
    return str(folder / "city" / "train.json"), str(folder / "city" / "images"), "the synthetic sample"


def measure_throughput(rounds: int, folder: Path) -> dict[str, Any]:
    """The training loader over both datasets by turns, no worker: one core does everything."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.data import DatasetFromList, DatasetMapper, build_detection_train_loader
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.samplers import TrainingSampler

    from nds_plugin.d2.data.store_dataset import StoreDataset
    from nds_plugin.datasets.coco.store import open_coco
    from nds_plugin.store.view import StoreView

    torch.set_num_threads(1)
    json_file, images, what = photographs(folder)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (240,)
    cfg.MODEL.MASK_ON = True
    datasets = {
        "stock": DatasetFromList(load_coco_json(json_file, images, "benchmark"), copy=False),
        "ours": StoreDataset([StoreView.whole(open_coco(json_file), images, "x")]),
    }
    times: dict[str, list[float]] = {"stock": [], "ours": []}
    loaders = {}
    for side, dataset in datasets.items():
        loaders[side] = iter(
            build_detection_train_loader(
                dataset,
                mapper=DatasetMapper(cfg, is_train=True),
                sampler=TrainingSampler(len(dataset), seed=0),
                total_batch_size=4,
                num_workers=0,
            )
        )
        next(loaders[side])
    for number in range(rounds):
        for side in ("stock", "ours") if number % 2 else ("ours", "stock"):
            start = time.process_time()
            for _ in range(10):
                next(loaders[side])
            times[side].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(times["stock"], times["ours"])]
    return {
        "images": what,
        "images_per_s": 40 / statistics.median(times["ours"]),
        "ratio": statistics.median(times["stock"]) / statistics.median(times["ours"]),
        "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
    }


def child(*arguments: str) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def available_mb() -> float:
    """Memory that is free, in MB."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("MemAvailable"))


def compare(shape: files.Shape, folder: Path) -> dict[str, float]:
    """Both sides on one shape; prints the table."""
    path = folder / "ours.json"
    files.write(path, shape)
    built = child("build", str(path))
    mine = child("ours", str(path))
    fits = available_mb() * 0.8 / (shape.annotations / 1e6 * _STOCK_MB_PER_MILLION)
    smaller, theirs_path = shape, path
    if fits < 1:
        smaller, theirs_path = shape.scaled(int(shape.images * fits)), folder / "stock.json"
        files.write(theirs_path, smaller)
    theirs = child("stock", str(theirs_path))
    print(
        f"\n{shape.name}'s shape: {shape.images:,} images, {shape.annotations:,} annotations, "
        f"{path.stat().st_size / 1e6:,.0f} MB of JSON; store {built['store_mb']:,.0f} MB, built in {built['seconds']:.0f} s"
    )
    if smaller is not shape:
        print(
            f"stock at {smaller.images:,} images, {smaller.annotations:,} annotations: all of them do not fit"
        )
    names = {
        "first_s": "first record, s",
        "private_mb": "private memory, MB",
        "worker_mb": f"... of each of {WORKERS} workers, MB",
        "record_us": "a record at random, us",
        "peak_mb": "peak memory, MB",
    }
    rows = [[label, theirs[key], mine[key]] for key, label in names.items()]
    print(tabulate(rows, headers=["", "stock", "ours"], floatfmt=".3g"), flush=True)
    held = [side["private_mb"] + WORKERS * side["worker_mb"] for side in (theirs, mine)]
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    return {
        "first_record_ratio": round(theirs["first_s"] / mine["first_s"], 1),
        "private_memory_ratio": round(held[0] / max(held[1], 0.1), 1),
        "random_read_ratio": round(mine["record_us"] / theirs["record_us"], 2),
        "build_peak_mb": round(built["peak_mb"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, help="images of each shape (default: those of the datasets)")
    parser.add_argument("--only", choices=("coco", "openimages"), help="one of the shapes")
    parser.add_argument("--rounds", type=int, default=30, help="of the loaders' throughput")
    parser.add_argument("--folder", help="where the files are made (default: a temporary folder)")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, *rest = args.measure
        measures: dict[str, Any] = {
            "build": measure_build,
            "throughput": lambda n, folder: measure_throughput(int(n), Path(folder)),
        }
        found = measures[what](*rest) if what in measures else measure_side(what, *rest)
        print(json.dumps(found))
        return
    shapes = {"coco": files.COCO, "openimages": files.OPEN_IMAGES}
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name, shape in shapes.items():
            if args.only in (None, name):
                results[name] = compare(shape.scaled(args.images) if args.images else shape, Path(folder))
        loader = child("throughput", str(args.rounds), folder)
    low, high = loader["quartiles"]
    print(
        f"\ntraining loader on {loader['images']}, one core: {loader['images_per_s']:.0f} images/s, "
        f"{loader['ratio']:.3f} times stock's (quartiles of {args.rounds} rounds {low:.3f}, {high:.3f})"
    )
    first = results.get("coco") or results["openimages"]
    print(json.dumps({**first, "throughput_ratio": round(loader["ratio"], 3)}))


if __name__ == "__main__":
    main()
