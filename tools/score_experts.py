#!/usr/bin/env python
"""Score experts on a target dataset: what the client runs, on images that stay where they are.

    python tools/score_experts.py --experts experts --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    python tools/score_experts.py --experts experts --images my_photos --output scores.json --max-images 200

The paper's targets by name (tools/prepare_datasets.py --check shows where each belongs):

    python tools/score_experts.py --experts experts --dataset stanford_cars_train --output scores.json

Only the scores leave: one number and its standard error per expert. A folder of images needs
nothing but this package and torch; task-supervised experts need labels (--coco or --dataset).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nds_plugin.artifacts import check_writable
from nds_plugin.cli import add_target_arguments, parse, run, target_from_arguments
from nds_plugin.scores import METRICS


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", required=True, help="folder of experts")
    add_target_arguments(parser)
    parser.add_argument("--output", required=True, help="the scores (JSON)")
    parser.add_argument("--metric", default="accuracy", help=", ".join(METRICS) + " (default accuracy)")
    parser.add_argument("--max-images", type=int, default=None, help="score a random draw of this many")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default 0)")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16 (default auto)")
    parser.add_argument("--num-workers", type=int, default=2, help="loader processes (default 2)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    return parse(parser)


def main() -> None:
    """Parse the command line, score, print the scores and save them."""
    args = parse_arguments()
    from nds_plugin.expert_set import ExpertSet
    from nds_plugin.networks import choose_device
    from nds_plugin.scoring import ScoringConfig, score_experts

    config = ScoringConfig(
        metric=args.metric,
        max_images=args.max_images,
        seed=args.seed,
        precision=args.precision,
        num_workers=args.num_workers,
    )
    check_writable(Path(args.output).parent)  # before the work that would be lost
    experts = ExpertSet.load(args.experts)
    scores = score_experts(experts, target_from_arguments(args), config, choose_device(args.device))
    scores.save(args.output)
    for cluster, z, stderr in zip(scores.clusters, scores.z, scores.stderr):
        print(f"cluster {cluster:4d}: {scores.metric} {z:.4f} +- {stderr:.4f}")
    print(
        f"{scores.images} images scored, {scores.unreadable} unreadable; {scores.cost}; wrote {args.output}"
    )


if __name__ == "__main__":
    run(main)
