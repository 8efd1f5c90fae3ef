"""Weigh each image of a source for a target, by nearest neighbours, a domain classifier or an oracle.

    nds weigh --index output/index.parquet --selector knn --images my_photos \\
        --output weights.parquet
    nds draw --index output/index.parquet --selector knn --image-weights weights.parquet \\
        --images 23000 --output selection.parquet

At CPU size, without any network:

    nds weigh --index output/index.parquet --selector oracle --sources coco_2017_train \\
        --output weights.parquet

Selectors of your own are known here if an installed package names them as entry points (docs/selectors.md).
knn and domain_classifier need the target's images, which the experts and the gate do not.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nds_plugin.command_line import (
    add_device_arguments,
    add_settings,
    documented_parser,
    file_to_write,
    run,
    settings_from,
)
from nds_plugin.commands.hosts import files_host
from nds_plugin.commands.selector_options import add_selector_settings, selector_from
from nds_plugin.errors import CommandLineError
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.files.artifacts import check_writable, content_hash
from nds_plugin.images.named_network import NamedNetwork
from nds_plugin.pipeline.naming import add_target_arguments, target_from_arguments
from nds_plugin.selection.image_weights import KIND
from nds_plugin.selection.selectors import SELECTORS, ImageSelector, Need
from nds_plugin.selection.selectors.base import Evidence, Features, TargetConfig, weigh_images
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

_WEIGHERS = [name for name, selector in SELECTORS.items() if issubclass(selector, ImageSelector)]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = documented_parser(__doc__, "weigh")
    parser.add_argument("--index", required=True, help="index.parquet of the source")
    parser.add_argument("--selector", required=True, choices=_WEIGHERS, help="what weighs the images")
    parser.add_argument("--output", required=True, help="file to write, ending in .parquet")
    features = parser.add_argument_group("selectors that look at the target's images")
    add_target_arguments(features, required=False)
    add_settings(features, NamedNetwork)
    features.add_argument(
        "--partition", help="partition.parquet of that index; selectors that compare with clusters need it"
    )
    add_settings(features, ExpertConfig, ("crop_size",))
    add_settings(features, TargetConfig, ("max_images",))
    add_device_arguments(features)
    add_selector_settings(parser, _WEIGHERS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, weigh, save."""
    args = parse_arguments(argv)
    selector = selector_from(args, _WEIGHERS)
    assert isinstance(selector, ImageSelector)
    output = file_to_write(args.output, ".parquet")
    check_writable(output.parent)  # before the work that would be lost
    index = SourceIndex.load(args.index)
    partition = _partition(args, index) if Need.CLUSTERS in selector.needs else None
    looks = selector.needs & (Need.FEATURES | Need.TARGET)
    kept = output.with_suffix(".features")  # until the weights are written; a stopped run goes on from them
    evidence = _evidence(args, index, kept) if looks else Evidence(index)
    weights = weigh_images(selector, dataclasses.replace(evidence, partition=partition))
    weights.save(output, content_hash([KIND, index.hash, selector.identity(), weights.hash]))
    if looks:
        from nds_plugin.source.feature_shards import remove_shards

        remove_shards(kept)
    print(f"{int((weights.p > 0).sum())} of {len(index)} images can be drawn; {weights.cost}; wrote {output}")


def _partition(args: argparse.Namespace, index: SourceIndex) -> Partition:
    """The clusters of the source; read before any network is loaded."""
    if not args.partition:
        raise CommandLineError(f"--selector {args.selector} needs clusters: give the source's --partition.")
    partition = Partition.load(args.partition)
    partition.check_matches(index)
    return partition


def _evidence(args: argparse.Namespace, index: SourceIndex, kept: Path) -> Evidence:
    from nds_plugin.images.backbones import load_named
    from nds_plugin.images.networks import choose_device
    from nds_plugin.selection.selectors.target import target_features
    from nds_plugin.source.features import extract_features

    named = settings_from(args, NamedNetwork)
    if not (args.images or args.coco or args.dataset):
        raise CommandLineError(
            f"--selector {args.selector} needs the target's --images, --coco or --dataset."
        )
    network, device = load_named(named), choose_device(args.device)
    config = settings_from(args, TargetConfig)
    target = target_features(
        network, target_from_arguments(args, files_host()), args.crop_size, config, device
    )
    values, readable = extract_features(
        index, network, args.crop_size, device=device, num_workers=args.num_workers, cache_dir=kept
    )
    return Evidence(index, Features(values, readable), target)


if __name__ == "__main__":
    run(main)
