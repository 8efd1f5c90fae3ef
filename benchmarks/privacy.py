#!/usr/bin/env python
"""What noise and rounding on the scores cost: how much of the selection they change.

    python benchmarks/privacy.py --scores scores.json --partition partition.parquet

CPU-sized, without files: 50 clusters of 100,000 images with scores spread over 0.4 to 0.95, in seconds
(the default). Several --scores are treated one after the other, with the same partition.

For each setting of `nds-client search --privacy` the selection of the noisy scores is drawn with the same
seed as that of the exact ones, and compared: the share of images that are in both (without noise 1, since
one seed gives one draw), and the largest difference that the weights allow (half their L1 distance). Noise
is drawn anew --repeats times; mean and standard deviation are printed. A uniform draw of the same size is
the last row: what is left without any scores. The last line is JSON: the overlap by setting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from nds_plugin.cli import parse, run
from nds_plugin.partition import Partition
from nds_plugin.sampling import available_weights, cluster_sizes, cluster_weights, draw_subset, resolve_budget
from nds_plugin.scores import Scores
from nds_plugin.service.client.privacy import apply_privacy, parse_privacy, statement

SETTINGS = (
    "round:3", "round:2", "round:1", "gaussian:0.001", "gaussian:0.01", "gaussian:0.05",
    "laplace:0.001", "laplace:0.01", "laplace:0.05", "laplace:0.01,round:2",
)  # fmt: skip
Cluster = npt.NDArray[np.integer]


def cases(args: argparse.Namespace) -> Iterator[tuple[str, list[float], int, str, Cluster]]:
    """Name, z, number of scored images, metric and the cluster of each source image."""
    if args.scores:
        partition = Partition.load(args.partition)
        for path in args.scores:
            scores = Scores.load(path)
            yield path, scores.z, scores.images, scores.metric, partition.cluster
        return
    rng = np.random.Generator(np.random.PCG64(args.seed))
    z = np.round(rng.uniform(0.4, 0.95, args.clusters) * 4 * args.images) / (4 * args.images)
    shares = rng.lognormal(0, 0.7, args.clusters)
    cluster = rng.choice(args.clusters, args.source_images, p=shares / shares.sum()).astype(np.int32)
    yield f"{args.clusters} random scores", z.tolist(), args.images, "accuracy", cluster


def compare(
    z: list[float], cluster: Cluster, setting: str, args: argparse.Namespace
) -> npt.NDArray[np.float64]:
    """Overlap of the selections and half the L1 distance of the weights, shape (repeats, 2)."""
    sizes = cluster_sizes(cluster, len(z))
    budget = resolve_budget(int(sizes.sum()), share=args.share)
    exact = available_weights(cluster_weights(z, args.temperature), sizes)
    drawn = draw_subset(exact, cluster, budget, args.seed)
    steps = () if setting == "uniform" else parse_privacy(setting)
    random = any(step.name != "round" for step in steps)
    rows = []
    for repeat in range(args.repeats if random else 1):
        noisy = apply_privacy(z, steps, f"key {repeat}".encode())
        weights = available_weights(cluster_weights(noisy, args.temperature), sizes)
        if setting == "uniform":
            weights = sizes / sizes.sum()
        other = draw_subset(weights, cluster, budget, args.seed)
        rows.append((len(np.intersect1d(drawn, other)) / budget, np.abs(weights - exact).sum() / 2))
    return np.asarray(rows)


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", action="append", help="scores.json (repeatable; needs --partition)")
    parser.add_argument("--partition", help="partition.parquet that the experts belong to")
    parser.add_argument(
        "--share", type=float, default=0.2, help="budget as a share of the source (default 0.2)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.1, help="T of w = softmax(z / T) (default 0.1)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="draws of the noise (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, and of random scores (default 0)")
    parser.add_argument("--clusters", type=int, default=50, help="of random scores (default 50)")
    parser.add_argument(
        "--images", type=int, default=1000, help="scored images of random scores (default 1000)"
    )
    parser.add_argument(
        "--source-images", type=int, default=100_000, help="of random scores (default 100000)"
    )
    args = parse(parser)
    if args.scores and not args.partition:
        parser.error("--scores needs --partition")
    summary: dict[str, dict[str, float]] = {}
    for name, z, images, metric, cluster in cases(args):
        rows = []
        for setting in (*SETTINGS, "uniform"):
            found = compare(z, cluster, setting, args)
            spread = f" +- {found[:, 0].std():.3f}" if len(found) > 1 else ""
            promise = (
                statement(parse_privacy(setting), len(z), images, metric)
                if setting != "uniform"
                else "no scores"
            )
            rows.append((setting, f"{found[:, 0].mean():.3f}{spread}", f"{found[:, 1].mean():.3f}", promise))
            summary.setdefault(name, {})[setting] = round(float(found[:, 0].mean()), 4)
        print(f"\n{name}: K = {len(z)}, z from {min(z):.4f} to {max(z):.4f}, {images} scored images")
        print(
            tabulate(
                rows, headers=["privacy", "overlap", "weights differ by", "guarantee"], disable_numparse=True
            )
        )
    print(json.dumps(summary))


if __name__ == "__main__":
    run(main)
