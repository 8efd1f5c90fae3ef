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
from pathlib import Path

from tabulate import tabulate

from nds_plugin.command_line import add_settings, documented_parser, file_to_write, run, settings_from
from nds_plugin.commands.hosts import files_host
from nds_plugin.commands.selector_options import add_selector_settings, refuse_foreign
from nds_plugin.datasets.label_space import unite
from nds_plugin.datasets.public import selections_folder
from nds_plugin.errors import MissingPackageError, NDSError
from nds_plugin.experts.description import Description
from nds_plugin.experts.scores import Scores
from nds_plugin.files.artifacts import content_hash
from nds_plugin.images.cost import Cost
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.select import by_image, select
from nds_plugin.selection.selection import KIND, Selection
from nds_plugin.selection.selectors import SELECTORS, ClusterSelector, Need
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.snds import ScalableNDS, similar_scores
from nds_plugin.selection.tables import cluster_table, effective_numbers, source_shares
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

_BY_IMAGES = [name for name, selector in SELECTORS.items() if by_image(selector)]
_BY_CLUSTERS = [name for name, selector in SELECTORS.items() if issubclass(selector, ClusterSelector)]


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = documented_parser(__doc__, "draw")
    parser.add_argument("--index", required=True, help="index.parquet of the source")
    parser.add_argument("--partition", help="partition.parquet of that index; selectors by clusters need it")
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
    return selections_folder() / f"{args.name}.parquet"


def describe_dataset(name: str, selection: Selection) -> str:
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
    if any(len(labelled) < len(space.classes) for labelled in space.labelled):
        lines.append(
            "Its sources label different classes. Detectron2's own heads treat an object whose class its source does "
            "not label as background; nds train, which fills in NDS.LABEL_SPACES, does not."
        )
    return "\n".join(lines)


def _partition(args: argparse.Namespace, index: SourceIndex) -> Partition:
    """The groups that the draw is told by; cluster selectors draw by them."""
    if args.partition:
        return Partition.load(args.partition)
    if Need.CLUSTERS in SELECTORS[args.selector].needs and not args.image_weights:
        raise NDSError(f"--selector {args.selector} draws by clusters: give the source's --partition.")
    return Partition.by_source(index)


def _summary(selection: Selection, path: Path, *, by_clusters: bool) -> str:
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
    path = output_path(args)
    index = SourceIndex.load(args.index)
    weights = ImageWeights.load(args.image_weights) if args.image_weights else None
    partition = _partition(args, index)
    scores = Scores.load(args.scores) if args.scores else None
    if scores and args.experts:
        from nds_plugin.experts.expert_set import ExpertSet

        experts = ExpertSet.load(args.experts)
        scores.check_matches(experts.hash, experts.clusters)
    scores = _of_the_clusters(args, config, scores)
    selection = select(index, partition, config, scores, weights)
    by = weights.hash if weights else scores.z if scores else None
    key = content_hash([KIND, index.hash, partition.hash, by, config.identity()])
    dataset = describe_dataset(args.name, selection) if args.name else ""
    selection.save(path, key)
    if args.partition:
        # Without scores there is no z, and w is then nothing but the cluster's share of what is drawn from.
        unknown = () if selection.info["z"] else ("z",) if weights else ("z", "w")
        rows = cluster_table(selection, index, partition)
        shown = [{key: value for key, value in row.items() if key not in unknown} for row in rows]
        print(tabulate(shown, headers="keys", floatfmt=".4f"))
    print(tabulate(source_shares(selection, index), headers="keys", floatfmt=".3f"))
    print(_summary(selection, path, by_clusters=bool(args.partition)))
    if dataset:
        print(dataset)


if __name__ == "__main__":
    run(main)
