#!/usr/bin/env python
"""What noise and rounding on the scores cost: how much of the selection they change.

    NDS_DATA=/path/to/data python benchmarks/privacy.py      # minutes; without NDS_DATA the made-up scores alone

Three clients: random scores of 50 clusters of 100,000 images, spread over 0.4 to 0.95; and, with real
photographs (layout in docs/datasets.md), Cityscapes and Clothing Co-Parsing, scored by 8 experts of 8
sources. The experts are made in --work, and kept there for another run.

For each setting of `nds-client search --privacy` the selection of the noisy scores is drawn with the same
seed as that of the exact ones, and compared: the share of images that are in both (without noise 1, since
one seed gives one draw). Noise is drawn anew --repeats times; mean and standard deviation are printed, and
epsilon where the noise guarantees one. A uniform draw of the same size is the last row: what is left
without any scores. The last line is JSON: the overlap by client and setting.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from nds_plugin.command_line import documented_parser, run
from nds_plugin.selection.drawing import draw_subset, resolve_budget
from nds_plugin.selection.weights import available_weights, cluster_sizes, cluster_weights
from nds_plugin.service.client.privacy import apply_privacy, parse_privacy, statement

SETTINGS = (
    "round:3", "round:2", "round:1", "laplace:0.001", "laplace:0.01", "laplace:0.01,round:2", "laplace:0.05",
    "gaussian:0.01", "gaussian:0.05",
)  # fmt: skip
UNIFORM = "no scores: a uniform draw"
SOURCES = ("coco_mini", "openimages", "camvid", "carla", "uwear", "doors", "food", "animals")
CLIENTS = {"driving": "cityscapes", "fashion": "ccp"}
CLUSTERS, CROP, SHARED_STEPS, STEPS = 8, 48, 80, 24  # of the experts on real photographs
RANDOM_CLUSTERS, RANDOM_IMAGES, RANDOM_SOURCE = 50, 1000, 100_000
Cluster = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Client:
    """Scores z of a client's n ``images``, and the cluster of each source image."""

    name: str
    z: list[float]
    images: int
    cluster: Cluster

    @property
    def title(self) -> str:
        """Its column."""
        return f"{self.name}, n = {self.images}, K = {len(self.z)}"


def random_client(seed: int) -> Client:
    """Scores spread over 0.4 to 0.95, clusters of unequal sizes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    turns = 4 * RANDOM_IMAGES
    z = np.round(rng.uniform(0.4, 0.95, RANDOM_CLUSTERS) * turns) / turns
    shares = rng.lognormal(0, 0.7, RANDOM_CLUSTERS)
    cluster = rng.choice(RANDOM_CLUSTERS, RANDOM_SOURCE, p=shares / shares.sum()).astype(np.int32)
    return Client("random scores", z.tolist(), RANDOM_IMAGES, cluster)


def real_clients(data: Path, work: Path) -> Iterator[Client]:
    """Real photographs, scored by experts that are trained here."""
    from nds_plugin.datasets.coco.split import index_coco
    from nds_plugin.experts.scoring import score_experts
    from nds_plugin.experts.settings import ExpertConfig, ScoringConfig
    from nds_plugin.experts.train_experts import prepare_shared, train_experts
    from nds_plugin.images.backbones import load_feature_network
    from nds_plugin.source.features import extract_features
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partitioning import PartitionConfig, partition_by_features

    def read(name: str) -> SourceIndex:
        folder = data / "detection" / name
        return index_coco(folder / "train.json", folder / "images", source=name)

    index = SourceIndex.join([read(name) for name in SOURCES])
    config = ExpertConfig(crop_size=CROP, batch_size=16, shared_steps=SHARED_STEPS, steps=STEPS)
    network = load_feature_network(prepare_shared(index, config, work))
    features, readable = extract_features(index, network, CROP, cache_dir=work / "features")
    partition = partition_by_features(index, features, readable, PartitionConfig(num_clusters=CLUSTERS))
    experts = train_experts(index, partition, config, work)
    for name, folder in CLIENTS.items():
        scores = score_experts(experts, read(folder), ScoringConfig("accuracy", num_workers=0))
        yield Client(name, scores.z, scores.images, partition.cluster)


def overlaps(client: Client, setting: str, args: argparse.Namespace) -> npt.NDArray[np.float64]:
    """Share of the selection that the changed scores draw, too; shape (repeats,), or (1,) without noise."""
    sizes = cluster_sizes(client.cluster, len(client.z))
    budget = resolve_budget(int(sizes.sum()), share=args.share)

    def drawn(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.integer]:
        return draw_subset(available_weights(weights, sizes), client.cluster, budget, args.seed)

    exact = drawn(cluster_weights(client.z, args.temperature))
    if setting == UNIFORM:
        changed = [sizes / sizes.sum()]
    else:
        steps = parse_privacy(setting)
        repeats = args.repeats if any(step.name != "round" for step in steps) else 1
        noisy = (apply_privacy(client.z, steps, f"key {k}".encode()) for k in range(repeats))
        changed = [cluster_weights(z, args.temperature) for z in noisy]
    return np.asarray([len(np.intersect1d(exact, drawn(weights))) / budget for weights in changed])


def cell(client: Client, setting: str, found: npt.NDArray[np.float64]) -> str:
    """Mean, standard deviation and epsilon, for people."""
    if len(found) == 1:
        return f"{found[0]:.3f}"
    told = statement(parse_privacy(setting), len(client.z), client.images, "accuracy", "rotation")
    promise = re.search(r"epsilon [0-9.e+]+", told)
    guarantee = f" ({promise[0]})" if promise and "too little" not in promise.string else ""
    return f"{found.mean():.3f} +- {found.std():.3f}{guarantee}"


def main() -> None:
    """Parse the command line, compare, print."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--work", default="output/privacy", help="folder of the experts (default output/privacy)"
    )
    parser.add_argument(
        "--share", type=float, default=0.2, help="budget as a share of the source (default 0.2)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.1, help="T of w = softmax(z / T) (default 0.1)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="draws of the noise (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, and of random scores (default 0)")
    args = parser.parse_args()
    data = os.environ.get("NDS_DATA")
    clients = [*(real_clients(Path(data), Path(args.work)) if data else ()), random_client(args.seed)]
    summary: dict[str, dict[str, float]] = {client.name: {} for client in clients}
    rows = []
    for setting in (*SETTINGS, UNIFORM):
        found = [overlaps(client, setting, args) for client in clients]
        rows.append([setting, *map(cell, clients, [setting] * len(clients), found)])
        for client, values in zip(clients, found):
            summary[client.name][setting] = round(float(values.mean()), 4)
    for client in clients:
        print(f"{client.title}: z from {min(client.z):.3f} to {max(client.z):.3f}")
    heads = ["--privacy", *(client.title for client in clients)]
    print(f"\n{tabulate(rows, heads, tablefmt='github', disable_numparse=True)}\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    run(main)
