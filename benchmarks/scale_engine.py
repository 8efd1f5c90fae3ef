"""The engines side by side: the local one and a Ray cluster on this machine, over the same images.

    python benchmarks/scale_engine.py
    python benchmarks/scale_engine.py --images 600 --rows 30000     # quicker

Generated photographs (JPEG, 400 x 300) are partitioned (a ResNet-18 of random weights at 64 pixels,
K = 8, two passes over shards of --shard-size) by the local engine and by a Ray cluster of one node of one core, once
to warm the worker up and once for the clock; the sample is small, so that both passes decode. Head experts and scores
follow on both. Then the driver alone, in processes of their own: Ray's passes over 3,000 and --rows rows of a synthetic
index, whose images are one file. The last line is JSON:

    ray_vs_local    images a second of the Ray engine over those of the local one; the goal is 0.85
    images_s        images a second of a core of the local engine, decoding included
    same_bytes      whether partition, experts and scores are the same bytes
    driver_mb_3k    peak memory of the driver over 3,000 rows, in MB
    driver_mb_300k  the same over --rows (300,000)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CROP, CLUSTERS = 64, 8


def write_photos(folder: Path, count: int) -> None:
    """Noise on gradients, as JPEG."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(pixels + rng.integers(-12, 12, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:06d}.jpg", quality=90)


def network() -> Any:
    """A ResNet-18 of random weights, as shared networks are."""
    from nds_plugin.images.backbones import load_feature_network
    from nds_plugin.images.networks import build_network

    return load_feature_network(shared_state=build_network(4).state_dict())


def partition(index: Any, folder: Path, executor: Any, shard_size: int) -> float:
    """Cut a source; the seconds that it took."""
    from nds_plugin.source.extraction import Extraction
    from nds_plugin.source.partitioning import PartitionConfig
    from nds_plugin.source.two_passes import TwoPasses

    config = PartitionConfig(num_clusters=CLUSTERS, sample_per_cluster=8, sample_least=1)
    how = Extraction(network(), CROP, executor.device, num_workers=executor.readers(0))
    start = time.perf_counter()
    passes = TwoPasses(config, how, executor, folder / "partition", folder / "features", shard_size)
    passes.run(index, "key").save(folder / "partition.parquet", "key")
    return time.perf_counter() - start


def the_rest(index: Any, folder: Path, executor: Any, shard_size: int, images: int) -> None:
    """Head experts and the scores of some images."""
    from nds_plugin.experts.scoring import score_experts
    from nds_plugin.experts.scoring_shards import scoring_shards
    from nds_plugin.experts.settings import HeadConfig, ScoringConfig
    from nds_plugin.experts.train_heads import train_heads
    from nds_plugin.source.partition import Partition

    cut = Partition.load(folder / "partition.parquet")
    heads = HeadConfig(crop_size=CROP, share=0.2)
    experts = train_heads(
        index, cut, network(), heads, folder / "heads", executor=executor, shard_size=shard_size
    )
    with scoring_shards(executor, folder / "scores.json", shard_size) as shards:
        config = ScoringConfig(max_images=images, num_workers=0)
        score_experts(experts, index, config, shards=shards).save(folder / "scores.json")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all artefacts but the seconds beside them."""
    from nds_plugin.files.artifacts import file_hash

    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".cost.json")]
    return {str(p.relative_to(folder)): file_hash(p) for p in files}


def cluster() -> Any:
    """A Ray cluster of one node of one core on this machine."""
    from ray.cluster_utils import Cluster

    # Ray gives its workers the lowest priority, for which a busy machine has no time.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    node = {"num_cpus": 1, "object_store_memory": 400 << 20, "include_dashboard": False}
    return Cluster(initialize_head=True, head_node_args=node)


def driver_peak(rows: int, address: str, folder: Path, image: Path) -> float:
    """Peak memory of a driver over a synthetic index, in MB; a process of its own."""
    command = [sys.executable, __file__, "--driver", str(rows), address, str(folder), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def touch(shared: Any, argument: Any, path: Path) -> None:  # noqa: ARG001
    """Assign without a network: the driver is what is measured."""
    from nds_plugin.files.artifacts import write_table
    from nds_plugin.source.two_passes import ASSIGNED_KIND

    images = argument.images
    table = images.select(["source", "image_id"])
    number = pa.array(np.arange(len(images)) % CLUSTERS, pa.int32())
    table = table.append_column("cluster", number).append_column(
        "distance", pa.array(np.zeros(len(images), "f4"))
    )
    write_table(path, ASSIGNED_KIND, argument.key, table, {"unreadable": 0})


def drive(rows: int, address: str, folder: Path, image: Path) -> None:
    """A driver's whole work on a partition of ``rows`` images, on Ray; prints its peak memory in MB."""
    from ray import cloudpickle
    from scale import told_by

    import nds_plugin.source.two_passes as module
    from nds_plugin.engine.config import EngineConfig
    from nds_plugin.engine.ray_executor import RayExecutor
    from nds_plugin.source.index import SCHEMA, SourceIndex

    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    module._assign = touch  # type: ignore[attr-defined, assignment]
    ids = [f"{i:09d}" for i in range(rows)]
    columns: dict[str, Any] = {
        "source": pa.array(["synthetic"] * rows).dictionary_encode(),
        "image_id": pa.array(ids),
        "file_name": pa.array([str(image)] * rows),
        **{name: pa.array(np.full(rows, value, np.int32)) for name, value in (("width", 8), ("height", 8), ("label", -1))},
        **{name: pa.array([""] * rows) for name in ("url", "license", "checksum")},
    }  # fmt: skip
    index = SourceIndex(pa.table(columns).select(SCHEMA.names))
    executor = RayExecutor(EngineConfig(engine="ray", ray_address=address))
    partition(index, folder, executor, 4096)
    print(told_by("/proc/self/status", "VmHWM") / 1024)


def measure_engine(
    images: int = 1000, rows: int = 300_000, shard_size: int = 128, repeats: int = 2
) -> dict[str, Any]:
    """All figures of this page."""
    import ray
    import torch

    from nds_plugin.engine.config import EngineConfig
    from nds_plugin.engine.executor import LocalExecutor
    from nds_plugin.engine.ray_executor import RayExecutor
    from nds_plugin.source.folder import index_folder

    os.environ["OMP_NUM_THREADS"] = "1"  # Ray gives a task of one core one thread
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nds-scale-") as name:
        work = Path(name)
        write_photos(work / "photos", images)
        index = index_folder(work / "photos", "photos")
        nodes = cluster()
        executors = {
            "local": LocalExecutor(progress=False),
            "ray": RayExecutor(EngineConfig(engine="ray", ray_address=nodes.address)),
        }
        seconds: dict[str, list[float]] = {"local": [], "ray": []}
        # In turns, since a machine's speed changes; the first of each warms caches and workers up.
        for turn in range(repeats + 1):
            for engine, executor in executors.items():
                seconds[engine].append(partition(index, work / engine / str(turn), executor, shard_size))
        for engine, executor in executors.items():
            the_rest(index, work / engine / "0", executor, shard_size, images // 5)
        first = next(iter(index.column("file_name")))
        peaks = [driver_peak(n, nodes.address, work / f"d{n}", Path(first)) for n in (3000, rows)]
        same = hashes(work / "local") == hashes(work / "ray")
        ray.shutdown()  # else the node is not given up
        nodes.shutdown()
    best = {engine: min(found[1:]) for engine, found in seconds.items()}
    print(f"seconds of each turn: {seconds}")
    return {
        "ray_vs_local": round(best["local"] / best["ray"], 3),
        "images_s": round(images / best["local"], 1),
        "same_bytes": same,
        "driver_mb_3k": round(peaks[0], 1),
        "driver_mb_300k": round(peaks[1], 1),
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="generated photographs (default: 1000)")
    parser.add_argument("--rows", type=int, default=300_000, help="of the synthetic index (default: 300000)")
    parser.add_argument("--shard-size", type=int, default=128, help="images in a shard (default: 128)")
    parser.add_argument("--driver", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.driver:
        rows, address, folder, image = args.driver
        drive(int(rows), address, Path(folder), Path(image))
        return
    print(json.dumps(measure_engine(args.images, args.rows, args.shard_size)))


if __name__ == "__main__":
    main()
