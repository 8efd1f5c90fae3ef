#!/usr/bin/env python
"""Weigh the single images of a source for a target: nearest neighbours, a domain classifier, an oracle.

    python tools/weigh_images.py --index output/index.parquet --selector knn --images my_photos \\
        --network output/experts/shared.safetensors --output weights.parquet
    python tools/draw_subset.py --index output/index.parquet --selector knn --image-weights weights.parquet \\
        --images 23000 --output selection.parquet

At CPU size, without any network:

    python tools/weigh_images.py --index output/index.parquet --selector oracle --sources coco_2017_train \\
        --output weights.parquet

knn and domain_classifier look at the target's images, which the experts and the gate do not ask for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nds_plugin.command_line import add_device_arguments, add_network_arguments, documented_parser, run
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import check_writable, content_hash
from nds_plugin.pipeline.naming import add_target_arguments, target_from_arguments
from nds_plugin.selection.config import IMAGE_SELECTORS
from nds_plugin.selection.weights import NORMALISATIONS


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--index", required=True, help="index of the source (Parquet)")
    parser.add_argument("--selector", required=True, choices=IMAGE_SELECTORS)
    parser.add_argument("--output", required=True, help="the weights (Parquet)")
    features = parser.add_argument_group("knn and domain_classifier")
    add_target_arguments(features, required=False)
    add_network_arguments(features)
    features.add_argument("--crop-size", type=int, default=224, help="side of the crops (default 224)")
    features.add_argument("--max-images", type=int, default=None, help="a random draw of the target's images")
    add_device_arguments(features)
    knn = parser.add_argument_group("knn")
    knn.add_argument("--neighbours", type=int, default=0, help="most similar target images; 0 (default): all")
    knn.add_argument("--temperature", type=float, default=0.1, help="T of the softmax (default 0.1)")
    knn.add_argument("--normalisation", default="minmax", choices=NORMALISATIONS)
    classifier = parser.add_argument_group("domain_classifier")
    classifier.add_argument("--l2", type=float, default=0.01, help="regularisation (default 0.01)")
    classifier.add_argument("--folds", type=int, default=5, help="of the source (default 5)")
    oracle = parser.add_argument_group("oracle")
    oracle.add_argument("--sources", nargs="+", default=[], help="source datasets of the client's domain")
    oracle.add_argument("--classes", nargs="+", default=[], help="main classes of the client's domain")
    oracle.add_argument("--rest", type=float, default=0.0, help="probability of all other images together")
    return parser.parse_args()


def main() -> None:
    """Parse the command line, weigh, save."""
    args = parse_arguments()
    from nds_plugin.selection.image_weights import KIND
    from nds_plugin.selection.selectors.base import Evidence, settings, weigh_images
    from nds_plugin.source.index import SourceIndex

    selector = _selector(args)
    check_writable(Path(args.output).parent)  # before the work that would be lost
    index = SourceIndex.load(args.index)
    evidence = _evidence(args, index) if selector.needs_features else Evidence(index)
    weights = weigh_images(selector, evidence)
    weights.save(args.output, content_hash([KIND, index.hash, settings(selector), weights.hash]))
    print(
        f"{int((weights.p > 0).sum())} of {len(index)} images can be drawn; {weights.cost}; wrote {args.output}"
    )


def _selector(args: argparse.Namespace) -> Any:
    from nds_plugin.selection.selectors.domain_classifier import DomainClassifier
    from nds_plugin.selection.selectors.knn import NearestNeighbours
    from nds_plugin.selection.selectors.oracle import Oracle

    if args.selector == "oracle":
        return Oracle(tuple(args.sources), tuple(args.classes), args.rest)
    if args.selector == "knn":
        return NearestNeighbours(args.neighbours, args.temperature, args.normalisation)
    return DomainClassifier(args.l2, args.folds)


def _evidence(args: argparse.Namespace, index: Any) -> Any:
    from nds_plugin.images.backbones import load_feature_network
    from nds_plugin.images.networks import choose_device
    from nds_plugin.selection.selectors.base import Evidence, Features
    from nds_plugin.selection.selectors.target import TargetConfig, target_features
    from nds_plugin.source.features import extract_features

    if not (args.network or args.weights) or not (args.images or args.coco or args.dataset):
        raise NDSError(
            f"--selector {args.selector} needs --network and the target's --images, --coco or --dataset."
        )
    network, device = load_feature_network(args.weights, network=args.network), choose_device(args.device)
    config = TargetConfig(args.max_images, 0, args.num_workers)
    target = target_features(network, target_from_arguments(args), args.crop_size, config, device)
    values, readable = extract_features(
        index, network, args.crop_size, device=device, num_workers=args.num_workers
    )
    return Evidence(index, Features(values, readable), target)


if __name__ == "__main__":
    run(main)
