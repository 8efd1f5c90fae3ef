#!/usr/bin/env python
"""Score a gate on a target dataset: what the client runs, on images that stay where they are.

    python tools/score_gate.py --gate output/gate --images my_photos --output scores.json

CPU-sized, on a random draw of the images:

    python tools/score_gate.py --gate output/gate --images my_photos --output scores.json --max-images 200

One forward pass an image; only the mean posterior of each cluster and its standard error leave.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nds_plugin.artifacts import check_writable
from nds_plugin.cli import add_target_arguments, parse, run, target_from_arguments


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gate", required=True, help="folder of the gate")
    add_target_arguments(parser)
    parser.add_argument("--output", required=True, help="the scores (JSON)")
    parser.add_argument("--max-images", type=int, default=None, help="score a random draw of this many")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default 0)")
    parser.add_argument("--num-workers", type=int, default=2, help="loader processes (default 2)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    return parse(parser)


def main() -> None:
    """Parse the command line, score, print the scores and save them."""
    args = parse_arguments()
    from nds_plugin.networks import choose_device
    from nds_plugin.selectors.gate import score_gate
    from nds_plugin.selectors.gate_set import Gate
    from nds_plugin.selectors.target import TargetConfig

    config = TargetConfig(args.max_images, args.seed, args.num_workers)
    check_writable(Path(args.output).parent)  # before the work that would be lost
    gate = Gate.load(args.gate)
    scores = score_gate(gate, target_from_arguments(args), config, choose_device(args.device))
    scores.save(args.output)
    for cluster, z, stderr in zip(scores.clusters, scores.z, scores.stderr):
        print(f"cluster {cluster:4d}: {scores.metric} {z:.4f} +- {stderr:.4f}")
    print(
        f"{scores.images} images scored, {scores.unreadable} unreadable; {scores.cost}; wrote {args.output}"
    )


if __name__ == "__main__":
    run(main)
