"""How a command line names sources and a target: a registered dataset, a COCO file or a folder."""

from __future__ import annotations

import argparse
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.pipeline.host import Datasets
from nds_plugin.source.index import SourceIndex

DATASET_HELP = "name of a dataset; nds datasets --list prints them all"


class _Kept(argparse.Action):
    """Puts what is given into ``files``, too, in the order of the command line."""

    def __call__(self, _: Any, namespace: argparse.Namespace, values: Any, __: str | None = None) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
        namespace.files = [*getattr(namespace, "files", []), (self.dest, values)]


def _source_names(args: argparse.Namespace) -> list[str]:
    """Names of the COCO files, then of the folders: those given, else derived ones."""
    from nds_plugin.source.source_names import name_sources

    if args.name:
        if len(args.name) != len(args.coco) + len(args.folder):
            raise NDSError(
                f"command line: {len(args.name)} times --name for {len(args.coco) + len(args.folder)} sources by "
                "--coco and --folder: give each of them a name, in their order, or none."
            )
        given = list(zip(args.files, args.name))
        names = [name for kind in ("coco", "folder") for (own, _), name in given if own == kind]
    else:
        names = name_sources([json_file for json_file, _ in args.coco], args.folder)
    taken = [*args.dataset, *names]
    twice = next((name for name in taken if not name or taken.count(name) > 1), None)
    if twice is not None:
        raise NDSError(
            f"command line: {taken.count(twice)} sources are called {twice!r}: give each another name by --name."
        )
    return names


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three ways to name image sources; each may be repeated and they are joined."""
    group = parser.add_argument_group("sources, which may be repeated and are joined")
    group.add_argument("--dataset", action="append", default=[], help=DATASET_HELP)
    group.add_argument(
        "--coco",
        action=_Kept,
        default=[],
        nargs=2,
        metavar=("JSON", "IMAGES"),
        help="a COCO file and its folder of images",
    )
    group.add_argument("--folder", action=_Kept, default=[], help="a folder of images")
    group.add_argument(
        "--name",
        action="append",
        default=[],
        help="name for a --coco or --folder, once for each in their order (default: the folder's; of a COCO file FOLDER_STEM)",
    )


def index_from_arguments(args: argparse.Namespace, host: Datasets) -> SourceIndex:
    """The index of the sources that :func:`add_source_arguments` parsed; ``host`` knows the named ones.

    Raises:
        NDSError: no source given, one that cannot be read, or two of one name.
    """
    from nds_plugin.datasets.coco.split import index_coco
    from nds_plugin.source.folder import index_folder

    if not (args.dataset or args.coco or args.folder):
        raise NDSError("no source given: name at least one by --dataset, --coco or --folder.")
    names = _source_names(args)
    indexes = [host.dataset(name).index() for name in args.dataset]
    indexes += [index_coco(json_file, images, name) for (json_file, images), name in zip(args.coco, names)]
    indexes += [index_folder(folder, name) for folder, name in zip(args.folder, names[len(args.coco) :])]
    return SourceIndex.join(indexes)


def add_target_arguments(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """Add the three ways to name a client's images, of which one is given."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--images", help="a folder of images")
    group.add_argument(
        "--coco", nargs=2, metavar=("JSON", "IMAGES"), help="a COCO file and its folder of images"
    )
    group.add_argument("--dataset", help=DATASET_HELP)


def target_from_arguments(args: argparse.Namespace, host: Datasets) -> SourceIndex | str:
    """The client's images that :func:`add_target_arguments` parsed: an index, or a folder."""
    if args.images is not None:
        return str(args.images)
    if args.coco is not None:
        from nds_plugin.datasets.coco.split import index_coco

        return index_coco(*args.coco)
    return host.dataset(args.dataset).index()
