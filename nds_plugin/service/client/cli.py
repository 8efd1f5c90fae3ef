"""The client of the web service: score your images here, send one number per expert, fetch what suits them.

    nds-client --server https://nds.example.org sources
    nds-client score --images my_photos --output scores.json
    nds-client search --scores scores.json --budget 23000
    nds-client download --search ID --output images

The server's address may stand in the variable NDS_SERVER. Experts are kept in $XDG_CACHE_HOME/nds_plugin,
tokens in $XDG_CONFIG_HOME/nds_plugin. `nds-client VERB --help` tells more about each verb.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from collections.abc import Sequence

from nds_plugin import command_line
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.selection.selectors.base import Softmax
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.service.client import verbs
from nds_plugin.service.searchable import SEARCHABLE

DEFAULT_SERVER = "http://127.0.0.1:8000"


def main(argv: Sequence[str] | None = None, program: str = "nds-client") -> None:
    """Entry point of ``nds-client``."""
    try:
        command_line.run(functools.partial(_main, argv, program))
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _main(argv: Sequence[str] | None, program: str) -> None:
    args = _parser(program).parse_args(argv)
    # Every request of httpx would be a line in between the progress bars.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    args.verb(args)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        default=os.environ.get("NDS_SERVER", DEFAULT_SERVER),
        help=f"default $NDS_SERVER or {DEFAULT_SERVER}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="VERB")
    _add_looking(commands)
    _add_scoring(commands)
    _add_searching(commands)
    _add_downloading(commands)
    for verb in commands.choices.values():
        # Also behind the verb; without a default, which would hide what stands before it.
        verb.add_argument("--server", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _add_looking(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    sources = commands.add_parser("sources", help="list the datasets that the server indexes")
    sources.set_defaults(verb=verbs.sources)
    experts = commands.add_parser(
        "experts", help="download the current experts into the cache, or complete them"
    )
    experts.add_argument("--set", help="id of another published set")
    experts.add_argument("--fastadapt", metavar="DIR", help="also write them for the paper authors' client")
    experts.set_defaults(verb=verbs.experts)


def _add_scoring(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    score = commands.add_parser("score", help="score the experts on your images; nothing is sent")
    target = score.add_mutually_exclusive_group(required=True)
    target.add_argument("--images", metavar="DIR", help="a folder of images")
    target.add_argument("--coco", nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json and its images")
    score.add_argument("--output", default="scores.json", help="default scores.json")
    command_line.add_settings(
        score, ScoringConfig, ("metric", "max_images", "seed", "precision", "num_workers")
    )
    command_line.add_device_argument(score)
    score.set_defaults(verb=verbs.score)
    convert = commands.add_parser("convert", help="turn z.pickle of the paper authors' client into scores")
    convert.add_argument("pickle", help="z.pickle; it is read, never executed")
    convert.add_argument(
        "--experts", metavar="DIR", help="folder of the experts (default: the server's current ones)"
    )
    convert.add_argument("--output", default="scores.json", help="default scores.json")
    convert.set_defaults(verb=verbs.convert)


def _add_searching(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    search = commands.add_parser("search", help="send the scores, after showing what will be sent")
    search.add_argument("--scores", help="scores.json; the selector uniform needs none")
    budget = search.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget", type=int, default=0, help="number of images")
    budget.add_argument("--share", type=float, default=0.0, help="share of the chosen sources")
    search.add_argument("--source", action="append", help="draw from this source only (repeatable)")
    command_line.add_settings(search, Softmax)
    search.add_argument("--selector", default=NDS.name, choices=SEARCHABLE)
    search.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    search.add_argument("--title", default="", help="for your own list of searches")
    search.add_argument(
        "--privacy", default="", metavar="STEPS",
        help="put on z before it is sent, such as laplace:0.01,round:2; also gaussian:SD",
    )  # fmt: skip
    search.add_argument("--yes", action="store_true", help="send without asking")
    search.set_defaults(verb=verbs.search)
    searches = commands.add_parser("searches", help="list your searches on the server")
    searches.add_argument("--delete", metavar="ID", help="delete one of them")
    searches.set_defaults(verb=verbs.searches)
    manifest = commands.add_parser("manifest", help="download the images' list of a search")
    manifest.add_argument("search", metavar="ID")
    manifest.add_argument("--output", required=True, help="the file to write")
    manifest.add_argument(
        "--format", choices=verbs.MANIFESTS, help="default: csv, or as the file's ending tells; d2: a config"
    )
    manifest.set_defaults(verb=verbs.manifest)


def _add_downloading(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    download = commands.add_parser("download", help="fetch the images of a search from their providers")
    what = download.add_mutually_exclusive_group(required=True)
    what.add_argument("--search", metavar="ID", help="one of your searches")
    what.add_argument(
        "--manifest", metavar="FILE", help="its list (CSV or Parquet), or a selection of nds draw"
    )
    download.add_argument("--output", required=True, metavar="DIR", help="images go to DIR/SOURCE/NAME")
    download.add_argument("--retry-failed", action="store_true", help="also try again what failed for good")
    download.add_argument("--connections", type=int, default=32, help="requests at once (default 32)")
    download.add_argument("--per-host", type=int, default=4, help="requests at once per host (default 4)")
    download.add_argument(
        "--rate", type=float, default=20.0, help="requests per second and host, 0: no limit (default 20)"
    )
    download.add_argument("--retries", type=int, default=4, help="further attempts per image (default 4)")
    download.add_argument("--timeout", type=float, default=20.0, help="seconds without a byte (default 20)")
    download.add_argument("--max-mb", type=int, default=64, help="largest image (default 64)")
    download.add_argument(
        "--placeholder", action="append", default=[], metavar="MD5",
        help="a picture that stands for removed photos (repeatable; Flickr's and Imgur's are known)",
    )  # fmt: skip
    download.set_defaults(verb=verbs.download_images)


if __name__ == "__main__":
    main()
