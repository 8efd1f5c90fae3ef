"""The client of the web service: score your images at home, send one number per expert, download what suits them.

    nds-client --server https://nds.example.org sources
    nds-client score --images my_photos --output scores.json
    nds-client search --scores scores.json --budget 23000
    nds-client download --search ID --output images

The variable NDS_SERVER can hold the server's address. Experts are kept in $XDG_CACHE_HOME/nds_plugin
(~/.cache by default), tokens in $XDG_CONFIG_HOME/nds_plugin (~/.config). `nds-client VERB --help` tells
more about each verb.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
from collections.abc import Sequence

from nds_plugin import command_line
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.selection.selectors.base import Softmax
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.service.searchable import SEARCHABLE

MANIFESTS = ("csv", "json", "parquet", "coco", "d2")
DEFAULT_SERVER = "http://127.0.0.1:8000"


def main(argv: Sequence[str] | None = None, program: str = "nds-client") -> None:
    """Entry point of ``nds-client``."""
    command_line.run(functools.partial(_main, argv, program))


def _main(argv: Sequence[str] | None, program: str) -> None:
    args = _parser(program).parse_args(argv)
    from nds_plugin.service.client import verbs  # what they need is not needed to list the options

    # Every request of httpx would be a line in between the progress bars.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    getattr(verbs, args.verb)(args)


def _parser(program: str) -> argparse.ArgumentParser:
    text = (__doc__ or "").replace("nds-client", program)
    parser = command_line.Parser(
        prog=program, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        default=os.environ.get("NDS_SERVER", DEFAULT_SERVER),
        help=f"address of the service, also after the verb (default: the variable NDS_SERVER, else {DEFAULT_SERVER})",
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
    sources.set_defaults(verb="sources")
    experts = commands.add_parser("experts", help="download the current experts into the cache")
    experts.add_argument("--set", help="id of another published set (default: the current one)")
    experts.add_argument(
        "--fastadapt", metavar="DIR", help="also write them in the form of the paper authors' client"
    )
    experts.set_defaults(verb="experts")


def _add_scoring(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    score = commands.add_parser("score", help="score the experts on your images; sends nothing")
    target = score.add_mutually_exclusive_group(required=True)
    target.add_argument("--images", metavar="DIR", help="a folder of images")
    target.add_argument("--coco", nargs=2, metavar=("JSON", "IMAGES"), help="a COCO json and its images")
    score.add_argument("--output", default="scores.json", help="file to write (default scores.json)")
    command_line.add_settings(
        score, ScoringConfig, ("metric", "max_images", "seed", "precision", "num_workers")
    )
    command_line.add_device_argument(score)
    score.set_defaults(verb="score")
    convert = commands.add_parser("convert", help="turn z.pickle of the paper authors' client into scores")
    convert.add_argument("pickle", help="the z.pickle; it is read as data, never executed")
    convert.add_argument(
        "--experts", metavar="DIR", help="folder of the experts (default: the server's current ones)"
    )
    convert.add_argument("--output", default="scores.json", help="file to write (default scores.json)")
    convert.set_defaults(verb="convert")


def _add_searching(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    search = commands.add_parser(
        "search", help="show what will be sent, ask, send it: the server draws images for you"
    )
    search.add_argument("--scores", help="scores.json of the verb score; --selector uniform needs none")
    budget = search.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget", type=int, default=0, help="how many images to draw")
    budget.add_argument(
        "--share", type=float, default=0.0, help="share of the chosen sources to draw, above 0 and up to 1"
    )
    search.add_argument("--source", action="append", help="draw from this source only (repeatable)")
    command_line.add_settings(search, Softmax)
    search.add_argument("--selector", default=NDS.name, choices=SEARCHABLE, help=f"default {NDS.name}")
    search.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    search.add_argument("--title", default="", help="name in your own list of searches")
    search.add_argument(
        "--privacy", default="", metavar="STEPS",
        help="noise and rounding of the scores before they are sent, such as laplace:0.01,round:2 or gaussian:0.01",
    )  # fmt: skip
    search.add_argument("--yes", action="store_true", help="send without asking")
    search.set_defaults(verb="search")
    searches = commands.add_parser("searches", help="list your searches on the server")
    searches.add_argument("--delete", metavar="ID", help="delete one of them")
    searches.set_defaults(verb="searches")
    manifest = commands.add_parser("manifest", help="download the list of a search's images")
    manifest.add_argument("search", metavar="ID", help="one of your searches")
    manifest.add_argument("--output", required=True, help="the file to write")
    manifest.add_argument(
        "--format",
        choices=MANIFESTS,
        help="d2 is a config of Detectron2 (default: by the ending of the file, else csv)",
    )
    manifest.set_defaults(verb="manifest")


def _add_downloading(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    download = commands.add_parser("download", help="fetch the images of a search from their providers")
    what = download.add_mutually_exclusive_group(required=True)
    what.add_argument("--search", metavar="ID", help="one of your searches")
    what.add_argument(
        "--manifest", metavar="FILE", help="the list of a search (CSV or Parquet), or a selection of nds draw"
    )
    download.add_argument(
        "--output", required=True, metavar="DIR", help="folder; the images go to DIR/SOURCE/NAME"
    )
    download.add_argument(
        "--retry-failed", action="store_true", help="also try again what earlier runs gave up"
    )
    download.add_argument("--connections", type=int, default=32, help="requests at once (default 32)")
    download.add_argument("--per-host", type=int, default=4, help="requests at once to one host (default 4)")
    download.add_argument(
        "--rate", type=float, default=20.0, help="requests a second to one host; 0 is no limit (default 20)"
    )
    download.add_argument("--retries", type=int, default=4, help="further attempts per image (default 4)")
    download.add_argument(
        "--timeout",
        type=float,
        default=20.0,
        help="give up after so many seconds without a byte (default 20)",
    )
    download.add_argument(
        "--max-mb", type=int, default=64, help="refuse images of more megabytes (default 64)"
    )
    download.add_argument(
        "--placeholder", action="append", default=[], metavar="MD5",
        help="MD5 of a picture that a host shows for removed photos; repeatable (Flickr's and Imgur's are known)",
    )  # fmt: skip
    download.set_defaults(verb="download_images")


if __name__ == "__main__":
    main()
