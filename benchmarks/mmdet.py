"""What a resume costs in MMDetection, and how quick the loader is, beside MMEngine's own loop and sampler.

    python benchmarks/mmdet.py

Both sides in one run, on images of COCO's size (the synthetic sample at 640 x 480), with the transforms of mmdet's
Mask R-CNN. The last line is JSON:

    resume_s        from the start of a resumed training to its first batch, after 100,000 iterations
    stock_resume_s  the same of IterBasedTrainLoop with InfiniteSampler and AspectRatioBatchSampler, which loads
                    and drops what was trained on; extrapolated from --replayed iterations, as shown
    loader_ratio    images a second of processor time over the stock loader's, both in this process

Where MMEngine's loop can skip (``skip_iter``), AspectRatioBatchSampler still makes it replay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:] = [
    p for p in sys.path if Path(p).resolve() != Path(__file__).parent
]  # this file is called as mmdet is

BATCH = 4
RESUMED_AT = 100_000
SIZE, SCALE = (640, 480), (1333, 800)


def selection(root: Path, folder: Path) -> str:
    """A stream over the sample's streets and rooms, both alike, as the stock sampler draws."""
    from nds_plugin.datasets.coco.split import index_coco
    from nds_plugin.selection.config import SelectionConfig
    from nds_plugin.selection.select import select
    from nds_plugin.selection.selectors.uniform import Uniform
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    parts = [index_coco(root / d / "train.json", root / d / "images", d) for d in ("street", "room")]
    index = SourceIndex.join(parts)
    cluster = (index.column("source").astype(str) == "room").astype(np.int32)
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    path = folder / "stream.parquet"
    select(index, partition, SelectionConfig(Uniform(), "stream")).save(path, "key")
    return str(path)


def dataset(root: Path, path: str, kind: str) -> dict[str, Any]:
    """Config of the selection's images, read by CocoDataset or through annotation stores."""
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
        {"type": "Resize", "scale": SCALE, "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    parts = []
    for domain in ("street", "room"):
        file = root / domain / "train.json"
        classes = [category["name"] for category in json.loads(file.read_text())["categories"]]
        prefix = {"img": f"{root / domain / 'images'}/"}
        meta = {"classes": classes, "nds_source": [domain]}
        parts.append(
            {
                "type": kind,
                "ann_file": str(file),
                "data_prefix": prefix,
                "metainfo": meta,
                "pipeline": pipeline,
            }
        )
    return {"type": "NDSSelection", "selection": path, "dataset": parts}


def loop(root: Path, path: str, work_dir: Path, stock: bool, workers: int) -> Any:
    """The training loop of a runner, ours or MMEngine's own, with nothing trained yet."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    ours = {
        "sampler": {"type": "NDSInfiniteSampler", "selection": path},
        "dataset": dataset(root, path, "NDSStoreDataset"),
    }
    theirs = {
        "sampler": {"type": "InfiniteSampler"},
        "batch_sampler": {"type": "AspectRatioBatchSampler"},
        "dataset": dataset(root, path, "CocoDataset"),
    }
    loader = {"batch_size": BATCH, "num_workers": workers, **(theirs if stock else ours)}
    kind = "IterBasedTrainLoop" if stock else "NDSIterBasedTrainLoop"
    cfg = Config(
        {
            "default_scope": "mmdet",
            "experiment_name": uuid.uuid4().hex,
            "work_dir": str(work_dir),
            "model": {"type": "UntrainedModel"},
            "train_dataloader": loader,
            "train_cfg": {"type": kind, "max_iters": 2 * RESUMED_AT},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
            "visualizer": {"type": "Visualizer", "name": uuid.uuid4().hex, "vis_backends": []},
            "randomness": {"seed": 0},
            "log_level": "ERROR",
        },
        format_python_code=False,
    )
    return Runner.from_cfg(cfg).build_train_loop(cfg.train_cfg)


def resume_seconds(train_loop: Any) -> float:
    """From the start of a resumed training to its first batch, by our loop."""
    start = time.perf_counter()
    train_loop.seek(RESUMED_AT)
    next(train_loop.dataloader_iterator)
    return time.perf_counter() - start


def replay_seconds(train_loop: Any, iterations: int) -> float:
    """What the stock loop does with the iterations before its first batch, for a few of them."""
    batches = train_loop.dataloader_iterator
    next(batches)  # workers have started
    start = time.perf_counter()
    if hasattr(batches, "skip_iter"):
        batches.skip_iter(iterations)
    else:
        for _ in range(iterations):
            next(batches)
    return time.perf_counter() - start


def images_a_second(batches: Any, iterations: int) -> float:
    """Throughput of a loader without workers, by processor time: other work on the machine has no part in it."""
    next(batches)
    start = time.process_time()
    for _ in range(iterations):
        next(batches)
    return BATCH * iterations / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--replayed", type=int, default=50, help="iterations that the stock loop replays in a round"
    )
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS

    import nds_plugin.mm
    from nds_plugin.datasets.sample.generate import generate

    class UntrainedModel(BaseModel):  # the loops are never run to a step
        def __init__(self, data_preprocessor: Any = None) -> None:
            super().__init__(data_preprocessor)
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
            raise NotImplementedError

    MODELS.register_module(module=UntrainedModel)
    nds_plugin.mm.use_torchvision_operators()
    with tempfile.TemporaryDirectory() as name, open(name + "/log", "w") as log:
        folder = Path(name)
        with contextlib.redirect_stdout(log):  # pycocotools tells of each file
            generate(folder, train_images=24, val_images=1, size=SIZE, domains=["street", "room"])
            path = selection(folder, folder)
            ours = loop(folder, path, folder / "ours", False, args.workers)
            stock = loop(folder, path, folder / "stock", True, args.workers)
            ours_here, stock_here = (loop(folder, path, folder / f"here{s}", s, 0) for s in (False, True))
        batches = {side: iter(side.dataloader) for side in (ours_here, stock_here)}
        resume, replay, ratios = [], [], []
        for number in range(args.rounds):  # in turns: the machine's pace changes
            resume.append(resume_seconds(ours))
            replay.append(replay_seconds(stock, args.replayed))
            order = (ours_here, stock_here) if number % 2 else (stock_here, ours_here)
            speed = {side: images_a_second(batches[side], args.replayed) for side in order}
            speeds = [speed[ours_here], speed[stock_here]]
            ratios.append(speeds[0] / speeds[1])
            print(f"images a second of processor time: ours {speeds[0]:.0f}, stock {speeds[1]:.0f}")
    each = statistics.median(replay) / args.replayed
    print(
        f"stock resume: {args.replayed} iterations of {BATCH} images in {statistics.median(replay):.2f} s, {each * 1000:.2f} ms "
        f"each; x {RESUMED_AT:,} = {each * RESUMED_AT:.0f} s"
    )
    result = {
        "resume_s": round(statistics.median(resume), 3),
        "stock_resume_s": round(each * RESUMED_AT),
        "loader_ratio": round(statistics.median(ratios), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
