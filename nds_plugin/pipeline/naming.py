"""How a command line names sources and a target: a registered dataset, a COCO file or a folder."""

from __future__ import annotations

import argparse

from nds_plugin.command_line import add_device_arguments
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.pipeline.host import Datasets
from nds_plugin.source.index import SourceIndex

DATASET_HELP = (
    "one of the paper's datasets (tools/prepare_datasets.py --check), or a registered Detectron2 dataset"
)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three ways to name image sources; each may be repeated and they are joined."""
    group = parser.add_argument_group("sources (repeatable, joined in the order given)")
    group.add_argument("--dataset", action="append", default=[], help=DATASET_HELP)
    group.add_argument(
        "--coco", action="append", default=[], nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json"
    )
    group.add_argument("--folder", action="append", default=[], help="a folder of images")


def index_from_arguments(args: argparse.Namespace, host: Datasets) -> SourceIndex:
    """The index of the sources that :func:`add_source_arguments` parsed; ``host`` knows the named ones.

    Raises:
        NDSError: no source given, or one that cannot be read.
    """
    from nds_plugin.datasets.coco.split import index_coco, index_folder

    indexes = [host.dataset(name).index() for name in args.dataset]
    indexes += [index_coco(json_file, images) for json_file, images in args.coco]
    indexes += [index_folder(folder) for folder in args.folder]
    if not indexes:
        raise NDSError("no source given: name at least one by --dataset, --coco or --folder.")
    return SourceIndex.join(indexes)


def add_target_arguments(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add the three ways to name a client's images, of which one is given."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--images", help="a folder of images")
    group.add_argument("--coco", nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json and its images")
    group.add_argument("--dataset", help=DATASET_HELP)


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which of the client's images are scored, and where."""
    parser.add_argument("--max-images", type=int, default=None, help="score a random draw of this many")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default 0)")
    add_device_arguments(parser)


def print_scores(scores: Scores, path: str) -> None:
    """Print what a client's scoring found, cluster by cluster, and what it cost."""
    for cluster, z, stderr in zip(scores.clusters, scores.z, scores.stderr):
        print(f"cluster {cluster:4d}: {scores.metric} {z:.4f} +- {stderr:.4f}")
    print(f"{scores.images} images scored, {scores.unreadable} unreadable; {scores.cost}; wrote {path}")
    spread = max(scores.z) - min(scores.z)
    if len(scores.z) > 1 and spread <= 2 * max(scores.stderr):
        print(
            f"All scores lie within {spread:.4f}, no more than twice a standard error: a draw by them follows "
            "chance. Train for more steps, or score more images."
        )


def target_from_arguments(args: argparse.Namespace, host: Datasets) -> SourceIndex | str:
    """The client's images that :func:`add_target_arguments` parsed: an index, or a folder."""
    if args.images is not None:
        return str(args.images)
    if args.coco is not None:
        from nds_plugin.datasets.coco.split import index_coco

        return index_coco(*args.coco)
    return host.dataset(args.dataset).index()
