"""The command line of the server: ``nds-serve run``, ``publish`` and ``sets``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path

from nds_plugin import cli
from nds_plugin.artifacts import check_writable
from nds_plugin.errors import NDSError

logger = logging.getLogger(__name__)
COMMANDS = ("run", "publish", "sets")


def main() -> None:
    """Entry point of ``nds-serve``; without a command it runs the server."""
    cli.run(_main)


def _main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] not in (*COMMANDS, "-h", "--help"):
        sys.argv.insert(1, "run")
    args = cli.parse(_parser())
    if args.command == "publish":
        _publish(args)
    elif args.command == "sets":
        _sets(args)
    else:
        _run(args)


def _parser() -> argparse.ArgumentParser:
    from nds_plugin.service.settings import ADMIN_TOKEN, Limits

    parser = cli.Parser(prog="nds-serve", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve a store")
    run.add_argument("--store", required=True, help="folder of published sets")
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    run.add_argument("--port", type=int, default=8000, help="0 for any free one (default 8000)")
    run.add_argument(
        "--database", default="", help="postgresql://... or sqlite:///... (default: SQLite in the store)"
    )
    run.add_argument(
        "--thumbnails", action="store_true", help="let the page load images from providers that allow it"
    )
    run.add_argument(
        "--admin-token-file", help=f"file with the admin token (default: the variable {ADMIN_TOKEN})"
    )
    run.add_argument("--forwarded-allow-ips", default="", help="proxies whose X-Forwarded-For is believed")
    limits = Limits()
    run.add_argument(
        "--requests-per-minute",
        type=int,
        default=limits.requests_per_minute,
        help="of one address; 0: no limit",
    )
    run.add_argument(
        "--heavy-per-minute",
        type=int,
        default=limits.heavy_per_minute,
        help="searches and manifests of one address",
    )
    run.add_argument(
        "--max-connections", type=int, default=1000, help="at once; others get a 503 (default 1000)"
    )
    run.add_argument("--quiet", action="store_true", help="no line for each request")
    publish = commands.add_parser("publish", help="check a set and make it the current one")
    publish.add_argument("--store", required=True, help="folder of published sets; made if need be")
    publish.add_argument("--index", required=True, help="index.parquet of the source")
    publish.add_argument("--partition", required=True, help="partition.parquet of that index")
    publish.add_argument("--experts", required=True, help="folder of the experts of that partition")
    publish.add_argument("--sources", help="YAML: homepage, licences, thumbnails and links of the sources")
    sets = commands.add_parser("sets", help="list the published sets")
    sets.add_argument("--store", required=True, help="folder of published sets")
    return parser


def _publish(args: argparse.Namespace) -> None:
    from nds_plugin.service.publishing import publish

    set_id = publish(args.store, args.index, args.partition, args.experts, args.sources)
    print(f"published the set {set_id} in {args.store}; it is the current one")


def _sets(args: argparse.Namespace) -> None:
    from nds_plugin.service.store import Store

    store = Store(Path(args.store))
    current = store.current_id()
    for set_id in store.ids():
        found = store.record(set_id)
        mark = "*" if set_id == current else " "
        print(
            f"{mark} {set_id}  {found.info['created']}  {found.info['images']} images, K = {found.num_clusters}"
        )


def _run(args: argparse.Namespace) -> None:
    import uvicorn

    from nds_plugin.service.app import create_app
    from nds_plugin.service.memory import keep_small
    from nds_plugin.service.protocol import GuardedProtocol
    from nds_plugin.service.settings import Limits, Settings, admin_hash
    from nds_plugin.service.store import NothingPublishedError

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
    config = uvicorn.Config(
        app,
        proxy_headers=bool(args.forwarded_allow_ips),
        forwarded_allow_ips=args.forwarded_allow_ips or None,
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
