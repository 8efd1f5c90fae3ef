"""Draw a subset of a source by a client's scores, by weights of its images, or uniformly.

    nds draw --index index.parquet --partition partition.parquet \\
        --scores scores.json --images 23000 --name cityscapes_23k

The same number of images, drawn uniformly:

    nds draw --index index.parquet --selector uniform --images 23000 --name uniform_23k

--name NAME writes $DETECTRON2_DATASETS/nds_selections/NAME.parquet, which is from then on the dataset nds_NAME.
Detectron2's own train_net.py can train on it:

    DETECTRON2_ENV_MODULE=nds_plugin.d2.env python train_net.py --config-file ... \\
        DATASETS.TRAIN "('nds_cityscapes_23k',)"

For that, the source must be made of datasets that have a name (nds partition --dataset). With --mode stream,
nds_NAME is the whole source with its probabilities, for DATALOADER.SAMPLER_TRAIN NDSTrainingSampler.

At CPU size: --share 0.2 of any source, in seconds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nds_plugin.command_line import add_settings, documented_parser, file_to_write, run, settings_from
from nds_plugin.commands.hosts import files_host
from nds_plugin.commands.selector_options import add_selector_settings, refuse_foreign
from nds_plugin.datasets.label_space import unite
from nds_plugin.datasets.public import ANNOTATED, selections_folder
from nds_plugin.errors import MissingPackageError, NDSError
from nds_plugin.experts.description import Description
from nds_plugin.experts.scores import Scores
from nds_plugin.files.artifacts import content_hash
from nds_plugin.files.part_files import is_in_parts
from nds_plugin.images.cost import Cost
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.manifest import listed, write_manifest
from nds_plugin.selection.select import by_image, select
from nds_plugin.selection.select_parts import WholeSelection, select_from_parts
from nds_plugin.selection.selection import KIND, Selection
from nds_plugin.selection.selectors import SELECTORS, ClusterSelector, Need
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.snds import ScalableNDS, similar_scores
from nds_plugin.selection.tables import (
    cluster_rows,
    cluster_table,
    drawn_counts,
    effective_numbers,
    source_rows,
    source_shares,
)
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.index_parts import IndexParts
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_parts import StreamedPartition

_BY_IMAGES = [name for name, selector in SELECTORS.items() if by_image(selector)]
_BY_CLUSTERS = [name for name, selector in SELECTORS.items() if issubclass(selector, ClusterSelector)]


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = documented_parser(__doc__, "draw")
    parser.add_argument(
        "--index",
        required=True,
        help="index.parquet of the source, or the folder or URL of an index in parts",
    )
    parser.add_argument(
        "--partition",
        help="partition.parquet of that index, or the folder of its parts; selectors by clusters need it",
    )
    parser.add_argument("--scores", help="the client's scores.json; selectors by clusters need it")
    parser.add_argument("--image-weights", help=f"weights.parquet of nds weigh; {_names(_BY_IMAGES)} need it")
    parser.add_argument("--description", help="what nds describe wrote of the partition; snds needs it")
    parser.add_argument("--experts", help="folder of the experts; makes sure that the scores are of these")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--images", type=int, default=0, help="how many images to draw")
    budget.add_argument(
        "--share",
        type=float,
        default=0.0,
        help="how many to draw, as a share of the source above 0 and up to 1",
    )
    parser.add_argument(
        "--selector", default=NDS.name, choices=list(SELECTORS), help=f"what decides (default: {NDS.name})"
    )
    add_settings(parser, SelectionConfig, ("mode",))
    add_selector_settings(parser, _BY_CLUSTERS)
    add_settings(parser, SelectionConfig, ("seed",))
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", help="file to write, ending in .parquet")
    target.add_argument("--name", help="write the selection as the dataset nds_NAME, see below")
    parser.add_argument(
        "--manifest",
        help="write the drawn images with their links to this file, too, ending in .csv; with --mode stream its first "
        "--images draws",
    )
    return parser.parse_args(argv)


def selection_config(args: argparse.Namespace) -> SelectionConfig:
    """The settings of the draw.

    Raises:
        NDSError: a bad setting, or one that the selector does not look at.
    """
    known = SELECTORS[args.selector]
    refuse_foreign(args, known, _BY_CLUSTERS)
    selector = known if by_image(known) else settings_from(args, known)
    return settings_from(args, SelectionConfig, selector=selector, count=args.images, share=args.share)


def output_path(args: argparse.Namespace) -> Path:
    """Where the selection goes."""
    if args.output:
        return file_to_write(args.output, ".parquet")
    if not args.name or args.name != os.path.basename(args.name):
        raise NDSError(f"--name must be a plain name, got {args.name!r}.")
    name = f"nds_{args.name}"
    if name in files_host().names() or name.endswith(ANNOTATED):
        raise NDSError(
            f"--name {args.name}: there is a dataset {name!r} already: give the selection another name."
        )
    return selections_folder() / f"{args.name}.parquet"


def manifest_path(args: argparse.Namespace) -> Path | None:
    """Where the list of drawn images goes, if one is wanted."""
    if not args.manifest:
        return None
    if args.mode == "stream" and args.images < 1:
        raise NDSError("a stream has no end: give the number of draws that --manifest lists by --images.")
    return file_to_write(args.manifest, ".csv")


def describe_dataset(name: str, selection: Selection | WholeSelection) -> str:
    """What a script that trains on the subset by name must know.

    Raises:
        NDSError: a source that has no name, so that nothing could load its images.
    """
    host = files_host()
    try:
        datasets = [host.dataset(source) for source in selection.sources]
    except MissingPackageError:
        raise
    except NDSError as error:
        raise NDSError(
            f"--name needs sources that were given by --dataset; write this selection by --output instead ({error})"
        ) from None
    space = unite([dataset.classes() for dataset in datasets], None, selection.sources)
    lines = [f"Registered dataset: nds_{name}, MODEL.ROI_HEADS.NUM_CLASSES {len(space.classes)}"]
    if selection.mode == "stream":
        lines.append(
            f"A stream: train with DATASETS.TRAIN ('nds_{name}',), DATALOADER.SAMPLER_TRAIN NDSTrainingSampler and "
            "build_nds_train_loader, which draw by p (nds train with NDS.SELECTOR none does); Detectron2's own "
            "samplers take every image alike."
        )
    if space.partial:
        lines.append(
            "Its sources label different classes. Detectron2's own heads treat an object whose class its source does "
            "not label as background; NDSROIHeads (MODEL.ROI_HEADS.NAME) with NDSDatasetMapper do not."
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Drawn:
    """A selection, the hash of its partition, and what is told of it, a row per cluster and per source."""

    selection: Selection | WholeSelection
    hashes: tuple[str, str]
    clusters: list[dict[str, Any]]
    sources: list[dict[str, Any]]


def _draw(
    args: argparse.Namespace, config: SelectionConfig, scores: Scores | None, weights: ImageWeights | None
) -> _Drawn:
    """The draw from an index in memory."""
    index = SourceIndex.load(args.index)
    partition = Partition.load(args.partition) if _has_clusters(args) else Partition.by_source(index)
    selection = select(index, partition, config, scores, weights)
    clusters, sources = cluster_table(selection, index, partition), source_shares(selection, index)
    return _Drawn(selection, (index.hash, partition.hash), clusters, sources)


def _draw_from_parts(args: argparse.Namespace, config: SelectionConfig, scores: Scores | None) -> _Drawn:
    """The draw from an index in parts, which is not read as a whole."""
    index = IndexParts.open(args.index)
    partition = (
        StreamedPartition.open(args.partition) if _has_clusters(args) else StreamedPartition.by_source(index)
    )
    selection, census = select_from_parts(index, partition, config, scores), partition.census
    if isinstance(selection, Selection):
        drawn, by_source = drawn_counts(selection, census)
    else:
        drawn, by_source = selection.weights, selection.rates @ census.counts[:-1]
    z = selection.info["z"]
    return _Drawn(
        selection,
        (index.hash, partition.hash),
        cluster_rows(census, selection.weights, z, drawn / drawn.sum()),
        source_rows(census.sources, census.of_sources, by_source),
    )


def _has_clusters(args: argparse.Namespace) -> bool:
    """Whether the draw is told by the clusters of a partition; cluster selectors draw by them."""
    if not args.partition and Need.CLUSTERS in SELECTORS[args.selector].needs and not args.image_weights:
        raise NDSError(f"--selector {args.selector} draws by clusters: give the source's --partition.")
    return bool(args.partition)


def _scores(args: argparse.Namespace, config: SelectionConfig) -> Scores | None:
    """The client's scores, of the experts that are named."""
    scores = Scores.load(args.scores) if args.scores else None
    if scores and args.experts:
        from nds_plugin.experts.expert_set import ExpertSet

        experts = ExpertSet.load(args.experts)
        scores.check_matches(experts.hash, experts.clusters)
    return _of_the_clusters(args, config, scores)


def _summary(selection: Selection | WholeSelection, path: Path, *, by_clusters: bool) -> str:
    """What is told of a draw in one line; nothing of clusters or of a cost that there are none of."""
    numbers, cost = effective_numbers(selection), Cost.from_dict(selection.info["cost"])
    clusters = f"{numbers['effective_clusters']:.1f} effective clusters, " if by_clusters else ""
    line = f"{len(selection)} images in {path}; {clusters}effective sample size {numbers['effective_sample_size']:.0f}"
    return (
        line
        + (f"; the client's cost: {cost}." if cost.images else ".")
        + (" The selector looks at the client's images." if selection.info["sees_target"] else "")
    )


def _of_the_clusters(
    args: argparse.Namespace, config: SelectionConfig, scores: Scores | None
) -> Scores | None:
    """The client's scores of the source's clusters: of its own experts, or by a description."""
    selector = config.selector
    if not isinstance(selector, ScalableNDS) or scores is None:
        if args.description:
            raise NDSError("--description goes with --selector snds and the client's --scores.")
        return scores
    if not args.description:
        raise NDSError("--selector snds needs --description: what nds describe wrote of the partition.")
    return similar_scores(scores, Description.load(args.description), selector.similarity)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    config = selection_config(args)
    path, manifest = output_path(args), manifest_path(args)
    weights = ImageWeights.load(args.image_weights) if args.image_weights else None
    scores = _scores(args, config)
    streamed = weights is None and is_in_parts(args.index)
    drawn = _draw_from_parts(args, config, scores) if streamed else _draw(args, config, scores, weights)
    selection = drawn.selection
    by = weights.hash if weights else scores.z if scores else None
    key = content_hash([KIND, *drawn.hashes, by, config.identity()])
    dataset = describe_dataset(args.name, selection) if args.name else ""
    selection.save(path, key)
    if manifest:
        write_manifest(manifest, listed(selection, args.images))
    if args.partition:
        # Without scores there is no z, and w is then nothing but the cluster's share of what is drawn from.
        unknown = () if selection.info["z"] else ("z",) if weights else ("z", "w")
        shown = [{key: value for key, value in row.items() if key not in unknown} for row in drawn.clusters]
        print(tabulate(shown, headers="keys", floatfmt=".4f"))
    print(tabulate(drawn.sources, headers="keys", floatfmt=".3f"))
    print(_summary(selection, path, by_clusters=bool(args.partition)))
    if dataset:
        print(dataset)


if __name__ == "__main__":
    run(main)
