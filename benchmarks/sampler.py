"""Speed and size of selection at OpenImages' size, beside Detectron2's RepeatFactorTrainingSampler.

    python benchmarks/sampler.py

Both samplers in one run; the last line is JSON:

    first_index_s    building the sampler and getting its first index, 1,743,042 images
    indices_per_s    indices a second from the iterator
    vs_repeat_factor indices a second of processor time over RepeatFactorTrainingSampler's, each from its own start,
                     on one thread; its first epoch is just long enough
    rss_100m_mb      peak memory of a process that draws from 100 million images by the sampler's
                     stream; importing torch, which the stream does not need, would add its own
    seek_s           getting the index of draw 10^9
    subset_200k_s    drawing 200,000 images without replacement

The median of several rounds each; both samplers are timed from nothing to the same number of indices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

IMAGES = 1_743_042  # OpenImages, the paper's Table 3
CLUSTERS = 50
HUGE = 100_000_000


def inputs(images: int) -> tuple[Any, Any]:
    """Weights and clusters of a made-up source."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, CLUSTERS, images, dtype=np.uint16)
    weights = rng.random(CLUSTERS) ** 4
    return weights / weights.sum(), cluster


def ours(weights: Any, cluster: Any, start: int = 0) -> Iterator[int]:
    """The iterator of our sampler."""
    from nds_plugin.selection.sampler import StreamSampler
    from nds_plugin.selection.streams import WeightedStream

    return iter(StreamSampler(WeightedStream(weights, cluster, 0), start=start))


def repeat_factor(probabilities: Any, count: int) -> Iterator[int]:
    """The iterator of Detectron2's weighted sampler for the same images; its first epoch holds about ``count`` indices."""
    import torch
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    factors = torch.from_numpy(
        probabilities * count
    )  # repeats of an image, in the mean, in one epoch of that many
    return iter(RepeatFactorTrainingSampler(factors, shuffle=True, seed=0))


def seconds(work: Callable[[], Any], rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of some rounds."""
    times = []
    for _ in range(rounds):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def exhaust(iterator: Iterator[int], count: int) -> None:
    """Take so many indices, without the cost of a Python loop of our own."""
    for _ in itertools.islice(iterator, count - 1, count):
        pass


def huge() -> None:
    """In a process of its own: draw from 100 million images and print the peak memory in MB."""
    weights, _ = inputs(10)
    # Made in pieces, so that the input costs no more than its own 200 MB.
    cluster = np.empty(HUGE, dtype=np.uint16)
    rng = np.random.default_rng(0)
    for start in range(0, HUGE, 1_000_000):
        cluster[start : start + 1_000_000] = rng.integers(0, CLUSTERS, 1_000_000, dtype=np.uint16)
    from nds_plugin.selection.streams import WeightedStream

    indices = WeightedStream(weights, cluster, 0).draw(0, 100_000)
    assert indices.max() > 2**24, "no index beyond 2^24 was drawn"
    # Not getrusage: its ru_maxrss survives exec and would be the parent's.
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--indices", type=int, default=4_000_000, help="indices taken from each sampler")
    parser.add_argument("--huge", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.huge:
        huge()
        return
    from nds_plugin.selection.drawing import draw_subset
    from nds_plugin.selection.weights import image_probabilities

    weights, cluster = inputs(IMAGES)
    first = seconds(lambda: next(ours(weights, cluster)), args.rounds)
    subset = seconds(lambda: draw_subset(weights, cluster, 200_000, 0), args.rounds)
    stream = ours(weights, cluster)
    rate = args.indices / seconds(lambda: exhaust(stream, args.indices), args.rounds)
    import torch

    torch.set_num_threads(1)
    whole = seconds(lambda: exhaust(ours(weights, cluster), args.indices), args.rounds, time.process_time)
    probabilities = image_probabilities(weights, cluster)
    theirs = seconds(
        lambda: exhaust(repeat_factor(probabilities, int(1.01 * args.indices)), args.indices),
        args.rounds,
        time.process_time,
    )
    from nds_plugin.selection.sampler import StreamSampler
    from nds_plugin.selection.streams import WeightedStream

    built = WeightedStream(weights, cluster, 0)
    seek = seconds(lambda: next(iter(StreamSampler(built, start=10**9))), args.rounds)
    peak = float(subprocess.run([sys.executable, __file__, "--huge"], capture_output=True, check=True).stdout)
    print(
        f"{args.indices:,} indices from nothing: ours {whole:.2f} s, RepeatFactorTrainingSampler {theirs:.2f} s"
    )
    result = {
        "first_index_s": round(first, 4),
        "indices_per_s": round(rate),
        "vs_repeat_factor": round(theirs / whole, 1),
        "rss_100m_mb": round(peak),
        "seek_s": round(seek, 5),
        "subset_200k_s": round(subset, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
