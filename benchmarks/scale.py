"""Sources beyond one machine: the engines side by side, and a draw of 23,000 from 10^9 images.

    python benchmarks/scale.py
    python benchmarks/scale.py --only draw --folder /big/disk
    python benchmarks/scale.py --only draw --images 20000000     # at CPU size, a minute or two

The draw: a synthetic index and partition (K = 1,000, clusters of unequal sizes in random order) are written in parts of
10^7 images, then ``nds draw`` runs in a process of its own. At 10^7 images the same draw is made from memory, too, and
the two selections are compared byte for byte. The last line is JSON:

    ray_vs_local      images a second of the Ray engine over those of the local one (benchmarks/scale_engine.py)
    driver_mb_300k    peak memory of the driver at 300,000 images
    draw_1e9_s        seconds of nds draw, from its start to its end
    draw_1e9_cpu_s    processor time of that process
    draw_1e9_peak_mb  peak memory of that process
    draw_1e9_read_mb  what it read from the disk or the page cache
    same_bytes        whether the engines, and the draws from parts and from memory, wrote the same bytes

The parts stay in --folder (5.5 GB for 10^9 images) and are used again; what an interrupted run finished is kept.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.experts.scores import Scores
from nds_plugin.files.artifacts import content_hash, write_json
from nds_plugin.files.part_files import HEAD, part_name
from nds_plugin.source.index import KIND as INDEX_KIND
from nds_plugin.source.index import SCHEMA, SourceIndex
from nds_plugin.source.index_parts import IndexParts, seal_index, write_index_part
from nds_plugin.source.partition import KIND as PARTITION_KIND
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_parts import write_partition_part

CLUSTERS, BUDGET = 1_000, 23_000
BILLION, IN_MEMORY = 10**9, 10**7
PART = 10**7
KEY = "synthetic"
logger = logging.getLogger("scale")


@functools.cache
def last_digits(count: int) -> npt.NDArray[np.uint8]:
    """The numbers below ``count`` as seven digits each, shape (count, 7)."""
    places = 10 ** np.arange(6, -1, -1)
    return np.stack([np.arange(count) // place % 10 for place in places], axis=1).astype(np.uint8) + ord("0")


def texts(before: str, count: int, after: str) -> pa.Array:
    """A text for each of ``count`` numbers; Arrow's own cast takes ten times as long."""
    width = len(before) + 7 + len(after)
    letters = np.empty((count, width), dtype=np.uint8)
    letters[:, : len(before)] = np.frombuffer(before.encode(), np.uint8)
    letters[:, len(before) : len(before) + 7] = last_digits(count)
    letters[:, len(before) + 7 :] = np.frombuffer(after.encode(), np.uint8)
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))


def index_rows(number: int, count: int) -> pa.Table:
    """A part of the index; images are fetched by their link."""
    first = f"1{number:05d}"
    empty = pa.array([""]).take(pa.array(np.zeros(count, np.int32)))
    values = {
        "source": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), ["web"]),
        "image_id": texts(first, count, ""),
        "width": pa.array(np.full(count, 640, np.int32)),
        "height": pa.array(np.full(count, 480, np.int32)),
        "label": pa.array(np.full(count, -1, np.int32)),
        "url": texts(f"https://images.example.org/{first}", count, ".jpg"),
    }
    return pa.table({name: values.get(name, empty) for name in SCHEMA.names})


def partition_rows(number: int, count: int, with_ids: bool) -> pa.Table:
    """A part of the partition; the ids are those of the index, and no draw reads them."""
    cluster = (np.random.default_rng(number).random(count) ** 1.5 * CLUSTERS).astype(np.int32)
    identities = index_rows(number, count).select(["source", "image_id"][: 1 + with_ids])
    table = identities.append_column("cluster", pa.array(cluster))
    return table.append_column("distance", pa.array(np.zeros(count, np.float32)))


def make(folder: Path, images: int, distinct: Sequence[int]) -> None:
    """Write index, partition and scores; parts that are there are kept.

    ``distinct`` parts of the index and of the partition are written, and the others are second names of these.
    """
    length = min(PART, -(-images // 4))
    parts = [(i, min(length, images - start)) for i, start in enumerate(range(0, images, length))]
    small, counts = images <= IN_MEMORY, [count for _, count in parts]
    index, partition, begin = folder / "index", folder / "partition", time.perf_counter()

    def missing(of: Path, written: int) -> Iterator[tuple[int, int]]:
        for number, count in parts[:written]:
            if not (of / part_name(number)).is_file():
                yield number, count
                told = of.name, number + 1, len(parts), time.perf_counter() - begin
                logger.info("%s: part %d of %d after %.0f s", *told)
        for number, _ in parts[written:]:
            if not (of / part_name(number)).is_file():
                os.link(of / part_name(number % written), of / part_name(number))

    for number, count in missing(index, distinct[0]):
        write_index_part(index, number, SourceIndex(index_rows(number, count)), KEY)
    if small and not (index / HEAD).is_file():
        seal_index(index, KEY)
    elif not small:
        # To hash a billion rows is part of writing them, and no draw does it: here the hash is that of the recipe.
        known = {"hash": content_hash([KEY, images, list(distinct)]), "sources": ["web"], "classes": []}
        seal_as_it_is(index, INDEX_KIND, counts, known)
    of_index = IndexParts.open(index).hash
    for number, count in missing(partition, distinct[1]):
        table = partition_rows(number, count, with_ids=small)
        write_partition_part(partition, number, table, KEY, of_index, "kmeans", 0)
    if not (partition / HEAD).is_file():
        found: dict[str, Any] = {"index_hash": of_index, "method": "kmeans", "seed": 0, "notes": []}
        found |= {**counted(partition, counts, distinct[1], of_index), "num_clusters": CLUSTERS}
        seal_as_it_is(partition, PARTITION_KIND, counts, found)
        logger.info("partition counted after %.0f s", time.perf_counter() - begin)
    z = np.random.default_rng(1).random(CLUSTERS).tolist()
    scores = Scores(list(range(CLUSTERS)), z, [0.0] * CLUSTERS, "accuracy", 10, "e" * 64, "rotation")
    scores.save(folder / "scores.json", KEY)


def counted(folder: Path, counts: Sequence[int], distinct: int, of_index: str) -> dict[str, Any]:
    """Census and hash of the partition; each different part is read once, and kept for the hash where it comes again."""
    kept: dict[int, Any] = {}
    table, digest = np.zeros((CLUSTERS + 1, 1), dtype=np.int64), hashlib.sha256(of_index.encode())
    for number in range(len(counts)):
        part = number % distinct
        if part not in kept:
            column = pq.read_table(folder / part_name(part), columns=["cluster"]).column("cluster")
            kept = kept if distinct < len(counts) else {}
            kept[part] = column.to_numpy().astype("<i4")
        digest.update(kept[part].data)
        table[:-1, 0] += np.bincount(kept[part], minlength=CLUSTERS)
    return {"hash": digest.hexdigest(), "census": {"sources": ["web"], "counts": table.tolist()}}


def seal_as_it_is(folder: Path, kind: str, counts: Sequence[int], payload: dict[str, Any]) -> None:
    """A head for parts of which some are second names of others, which say that they are those."""
    sizes = [(folder / part_name(number)).stat().st_size for number in range(len(counts))]
    parts = [{"rows": rows, "bytes": size} for rows, size in zip(counts, sizes)]
    write_json(folder / HEAD, kind, KEY, {**payload, "parts": parts})


def draw(index: Path, partition: Path, scores: Path, output: Path) -> dict[str, float]:
    """``nds draw`` in a process of its own: seconds, peak memory and bytes read, both in MB."""
    command = [sys.executable, __file__, "--draw", str(index), str(partition), str(scores), str(output)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {"s": time.perf_counter() - start, **told}


def drawn(index: str, partition: str, scores: str, output: str) -> None:
    """What the process of :func:`draw` does."""
    from nds_plugin.commands.draw import main as draw_command

    paths = ["--index", index, "--partition", partition, "--scores", scores, "--output", output]
    draw_command([*paths, "--images", str(BUDGET)])
    # Not getrusage: its ru_maxrss survives exec and would be the parent's.
    peak, read = told_by("/proc/self/status", "VmHWM"), told_by("/proc/self/io", "rchar")
    print(json.dumps({"cpu_s": time.process_time(), "peak_mb": peak / 1024, "read_mb": read / 1e6}))


def told_by(file: str, name: str) -> int:
    """A number that the kernel tells of this process."""
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))


def measure_draw(folder: Path, wanted: int, distinct: Sequence[int]) -> dict[str, Any]:
    """The figures of the draw, and whether it is that from memory."""
    small = folder if wanted <= IN_MEMORY else folder / "in_memory"
    make(small, min(wanted, IN_MEMORY), (PART, PART))
    make(folder, wanted, distinct)
    scores = small / "scores.json"
    from_parts = draw(small / "index", small / "partition", scores, small / "parts.parquet")
    figures = from_parts
    if small != folder:
        figures = draw(folder / "index", folder / "partition", scores, folder / "drawn.parquet")
    files = small / "index.parquet", small / "partition.parquet"
    if not files[1].is_file():
        SourceIndex.load(small / "index").save(files[0], KEY)
        Partition.load(small / "partition").save(files[1], KEY)
    in_memory = draw(files[0], files[1], scores, small / "memory.parquet")
    images = len(IndexParts.open(small / "index"))
    logger.info("%d images: from parts %s, from memory %s", images, from_parts, in_memory)
    same = (small / "parts.parquet").read_bytes() == (small / "memory.parquet").read_bytes()
    label = "1e9" if wanted == BILLION else str(wanted)
    told: dict[str, Any] = {f"draw_{label}_{name}": round(value, 1) for name, value in figures.items()}
    if min(distinct) < PART:
        told[f"draw_{label}_distinct_parts"] = list(distinct)
    return {**told, "same_bytes": same}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["engine", "draw"], help="measure one of the two")
    parser.add_argument("--images", type=int, default=BILLION, help="of the synthetic source")
    parser.add_argument("--folder", type=Path, help="where its parts are kept (default: removed at the end)")
    parser.add_argument(
        "--distinct",
        type=int,
        nargs=2,
        default=(PART, PART),
        metavar=("INDEX", "PARTITION"),
        help="write only so many parts and read them again and again under other names, where disk or time are short; "
        "numbers without a common divisor (default: all)",
    )
    parser.add_argument("--draw", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        drawn(*args.draw)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, Any] = {}
    if args.only != "draw":
        from scale_engine import measure_engine

        found.update(measure_engine())
    if args.only != "engine":
        folder = args.folder or Path(tempfile.mkdtemp(prefix="nds-scale-"))
        try:
            of_draw = measure_draw(folder / str(args.images), args.images, args.distinct)
        finally:
            if not args.folder:
                shutil.rmtree(folder)
        found.update({**of_draw, "same_bytes": of_draw["same_bytes"] and found.get("same_bytes", True)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
