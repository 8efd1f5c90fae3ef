"""The server of the web service: its commands and their options."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from nds_plugin import command_line
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import check_writable

logger = logging.getLogger(__name__)
_DATABASE = "postgresql://... or sqlite:///..."


def main(argv: Sequence[str] | None = None, program: str = "nds-serve") -> None:
    """Entry point of ``nds-serve``; without a command it runs the server."""
    command_line.run(functools.partial(_main, sys.argv[1:] if argv is None else argv, program))


def _main(argv: Sequence[str], program: str) -> None:
    is_option = bool(argv) and argv[0].startswith("-") and argv[0] not in ("-h", "--help")
    args = _parser(program).parse_args(["run", *argv] if is_option else argv)
    {"run": _run, "publish": _publish, "sets": _sets, "prune": _prune}[args.command](args)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog=program,
        description="The web service: publish sets of experts, serve them, list and remove old ones.",
        epilog=f"`{program} COMMAND --help` tells more about each. Without a command the options are those of run.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_publish(commands)
    _add_pruning(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    from nds_plugin.service.server.settings import ADMIN_TOKEN, Limits

    run = commands.add_parser("run", help="serve the page and the API")
    run.add_argument("--store", required=True, help="folder of published sets")
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    run.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 takes any free one (default 8000)"
    )
    run.add_argument("--database", default="", help=f"{_DATABASE} (default: SQLite in the store)")
    run.add_argument(
        "--thumbnails",
        action="store_true",
        help="let the page show images from providers whose notes allow it",
    )
    run.add_argument(
        "--admin-token-file", help=f"file with the admin token (default: the variable {ADMIN_TOKEN})"
    )
    run.add_argument(
        "--forwarded-allow-ips",
        default="",
        help="addresses of the proxies in front, whose X-Forwarded-For is believed",
    )
    run.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="path below which a proxy shows the server, and which it takes away, such as /nds",
    )
    limits = Limits()
    run.add_argument(
        "--requests-per-minute",
        type=int,
        default=limits.requests_per_minute,
        help=f"limit for one address; 0 is no limit (default {limits.requests_per_minute})",
    )
    run.add_argument(
        "--heavy-per-minute",
        type=int,
        default=limits.heavy_per_minute,
        help=f"limit of searches and manifests for one address (default {limits.heavy_per_minute})",
    )
    run.add_argument(
        "--max-connections",
        type=int,
        default=1000,
        help="connections at once; others are answered with 503 (default 1000)",
    )
    run.add_argument("--quiet", action="store_true", help="no line for each request")


def _add_publish(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    publish = commands.add_parser(
        "publish", help="check a set of experts, copy it into a store and make it the current one"
    )
    publish.add_argument(
        "--store", required=True, help="folder of published sets; it is made if it is not there"
    )
    publish.add_argument("--index", required=True, help="index.parquet of the source")
    publish.add_argument("--partition", required=True, help="partition.parquet of that index")
    publish.add_argument(
        "--experts",
        required=True,
        help="folder of the experts of that partition, or of those that describe it",
    )
    publish.add_argument(
        "--description", help="what nds describe wrote of a source that has no experts of its own"
    )
    publish.add_argument("--sources", help="YAML: homepage, licences, thumbnails and links of the sources")
    publish.add_argument(
        "--not-current",
        action="store_true",
        help="keep the current set; the holder of the admin token can switch later",
    )


def _add_pruning(commands: argparse._SubParsersAction[command_line.Parser]) -> None:
    sets = commands.add_parser("sets", help="list the published sets, their sizes and searches")
    prune = commands.add_parser("prune", help="remove old sets that no search refers to")
    for command in (sets, prune):
        command.add_argument("--store", required=True, help="folder of published sets")
        command.add_argument(
            "--database", action="append", default=[], metavar="URL",
            help=f"another database with searches, besides the store's own SQLite file: {_DATABASE}; repeatable",
        )  # fmt: skip
    prune.add_argument("--keep", type=int, required=True, help="how many of the newest sets to keep")
    prune.add_argument(
        "--forget-days", type=float, metavar="DAYS",
        help="first delete searches older than this, and tokens of that age without a search",
    )  # fmt: skip
    prune.add_argument(
        "--dry-run",
        action="store_true",
        help="only print what would be deleted and which sets would be removed",
    )


def _publish(args: argparse.Namespace) -> None:
    from nds_plugin.service.published.publishing import publish

    current = not args.not_current
    parts = (args.store, args.index, args.partition, args.experts, args.sources)
    set_id = publish(*parts, description=args.description, current=current)
    print(
        f"published the set {set_id} in {args.store}; {'it is' if current else 'another may be'} the current one"
    )


def _sets(args: argparse.Namespace) -> None:
    from nds_plugin.service.published.store import Store
    from nds_plugin.service.server.pruning import books, searches_by_set, unnamed

    store = Store(Path(args.store))
    current = store.current_id()
    searches = searches_by_set(books(store.root, args.database))
    for found in store.records():
        size = sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file())
        print(
            f"{'*' if found.id == current else ' '} {found.id}  {found.info['created']}  {found.info['images']} images, "
            f"K = {found.num_clusters}, {size / 1e6:.0f} MB, {searches[found.id]} searches"
        )

    for name in unnamed(store.root, args.database):
        print(f"without the searches in {name}: name it by --database")


def _prune(args: argparse.Namespace) -> None:
    from nds_plugin.service.server.pruning import DATABASES, books, prune, unnamed

    if args.keep < 0 or (args.forget_days is not None and not args.forget_days > 0):
        raise NDSError("--keep should be 0 or more, and --forget-days more than 0.")
    root = Path(args.store)
    if missing := unnamed(root, args.database):
        raise NDSError(
            f"{root}: searches are kept in {missing[0]}, too: name it by --database, so that no set of theirs is "
            f"removed (or take it out of {root / DATABASES}, if it is gone)."
        )
    found = books(root, args.database)
    would, since = "would " if args.dry_run else "", 0.0
    if args.forget_days is not None:
        since = time.time() - args.forget_days * 86_400
        for book in found:
            gone = book.forget(since, dry_run=args.dry_run)
            print(
                f"{would}delete{'' if would else 'd'} {gone['searches']} searches and {gone['tokens']} tokens"
            )
    removed = prune(root, args.keep, found, dry_run=args.dry_run, since=since)
    print(
        f"{would}remove{'' if would else 'd'} {len(removed)} sets{': ' if removed else ''}{', '.join(removed)}"
    )


def _run(args: argparse.Namespace) -> None:
    import uvicorn

    from nds_plugin.service.published.store import NothingPublishedError
    from nds_plugin.service.server.app import create_app
    from nds_plugin.service.server.memory import keep_small
    from nds_plugin.service.server.protocol import GuardedProtocol
    from nds_plugin.service.server.pruning import remember_database
    from nds_plugin.service.server.settings import Limits, Settings, admin_hash

    check_writable(args.store)
    limits = Limits(requests_per_minute=args.requests_per_minute, heavy_per_minute=args.heavy_per_minute)
    settings = Settings(
        store=Path(args.store),
        database=args.database,
        thumbnails=args.thumbnails,
        admin_hash=admin_hash(args.admin_token_file),
        limits=limits,
    )
    app = create_app(settings)
    if args.database:
        remember_database(settings.store, args.database)
    config = uvicorn.Config(
        app,
        proxy_headers=bool(args.forwarded_allow_ips),
        forwarded_allow_ips=args.forwarded_allow_ips or None,
        root_path=quote(f"/{args.root_path.strip('/')}".rstrip("/")),
        server_header=False,
        access_log=not args.quiet,
        log_config=None,
        timeout_graceful_shutdown=10,
        http=GuardedProtocol,
        ws="none",
        limit_concurrency=args.max_connections,
    )
    with contextlib.suppress(NothingPublishedError):
        app.state.context.store.current()  # so that the first search need not wait for it
    bound = _bind(args.host, args.port)
    host, port = bound.getsockname()[:2]
    keep_small()
    # Whoever starts a server on port 0 reads here where it is.
    print(f"serving {args.store} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has shut down
        uvicorn.Server(config).run(sockets=[bound])


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        NDSError: the port is taken or out of range, or the address is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        # Python adds the address to some; names that are unknown have numbers of their own.
        known = isinstance(number, int) and number > 0
        cause = os.strerror(number) if known and number is not None else str(error)
        raise NDSError(
            f"cannot listen on {host} port {port}: {cause}; choose another by --port or --host."
        ) from None


if __name__ == "__main__":
    main()
