"""What each verb of ``nds-client`` does."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

from nds_plugin.command_line import settings_from
from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import MANIFEST, read_manifest
from nds_plugin.experts.scores import Scores
from nds_plugin.files.artifacts import check_writable
from nds_plugin.pipeline.files_host import FilesHost
from nds_plugin.pipeline.naming import target_from_arguments
from nds_plugin.pipeline.scores_text import scores_text
from nds_plugin.service.client.cache import current_set, fetch_experts, remote_set
from nds_plugin.service.client.checks import known_placeholders
from nds_plugin.service.client.download import FAILURES, DownloadConfig, Summary, download
from nds_plugin.service.client.fetch import FetchConfig
from nds_plugin.service.client.hosts import Politeness
from nds_plugin.service.client.http import Service, listed, printable
from nds_plugin.service.client.manifest import Wanted
from nds_plugin.service.client.manifest import read_manifest as read_images
from nds_plugin.service.client.privacy import parse_privacy
from nds_plugin.service.client.search import (
    SearchOptions,
    check_current,
    checked_id,
    current_experts,
    disclosure,
    make_request,
    own_searches,
    read_search,
    send,
)
from nds_plugin.service.fastadapt import scores as fastadapt
from nds_plugin.service.set_limits import MAX_BODY

logger = logging.getLogger(__name__)
_ENDINGS = {".parquet": "parquet", ".json": "json", ".yaml": "d2", ".yml": "d2"}
_Kind = TypeVar("_Kind", list[Any], dict[str, Any])
MISSING_IMAGES = 1  # exit status of a download that could not fetch everything


def sources(args: argparse.Namespace) -> None:
    """List the indexed sources."""
    with Service(args.server) as service:
        found = service.get("sources")
    rows = [
        {
            "source": printable(entry.get("name"), 60),
            "images": printable(entry.get("images"), 20),
            "with link": printable(entry.get("linked_images"), 20),
            "clusters": len(_part(entry, "clusters", list)),
            "licences": printable(", ".join(map(str, _part(entry, "licenses", list))), 60),
            "homepage": printable(entry.get("homepage"), 80),
        }
        for entry in listed(found, "sources")
    ]
    print(tabulate(rows, headers="keys"))
    print(f"expert set {printable(found.get('expert_set'), 64)}")


def _part(entry: dict[str, Any], name: str, kind: type[_Kind]) -> _Kind:
    """A part of what a server says, or an empty one where it is of another kind."""
    found = entry.get(name)
    return found if isinstance(found, kind) else kind()


def experts(args: argparse.Namespace) -> None:
    """Download a set of experts into the cache."""
    with Service(args.server) as service:
        remote = remote_set(service, args.set) if args.set else current_set(service)
        folder = fetch_experts(service, remote)
    print(f"{len(remote.manifest['experts'])} experts of set {remote.id} (hash {remote.hash}) in {folder}")
    if args.fastadapt:
        from nds_plugin.experts.expert_set import ExpertSet
        from nds_plugin.service.client.export import export_fastadapt

        files = export_fastadapt(ExpertSet.load(folder), args.fastadapt)
        print(f"{len(files)} files for the paper authors' client in {args.fastadapt}")


def score(args: argparse.Namespace) -> None:
    """Score the current experts on the user's images."""
    check_writable(Path(args.output).parent)  # before the work that would be lost
    with Service(args.server) as service:
        folder = fetch_experts(service, current_set(service))
    from nds_plugin.experts.expert_set import ExpertSet
    from nds_plugin.experts.scoring import score_experts
    from nds_plugin.experts.settings import ScoringConfig
    from nds_plugin.images.networks import choose_device

    config = settings_from(args, ScoringConfig)
    scores = score_experts(
        ExpertSet.load(folder), target_from_arguments(args, FilesHost()), config, choose_device(args.device)
    )
    scores.save(args.output)
    print(scores_text(scores, args.output))
    print(f"Nothing was sent: nds-client search --scores {args.output} --budget N")


def convert(args: argparse.Namespace) -> None:
    """Turn ``z.pickle`` into scores."""
    data = _read_pickle(Path(args.pickle))
    if args.experts:
        manifest = read_manifest(Path(args.experts) / MANIFEST)
    else:
        with Service(args.server) as service:
            manifest = current_set(service).manifest
    clusters = [int(entry["cluster"]) for entry in manifest["experts"]]
    found = fastadapt.convert(data, manifest["hash"], clusters)
    # The file tells neither the number of images nor how sure its numbers are.
    unknown = {"converted_from": "fastadapt", "stderr": "unknown"}
    Scores(
        found["clusters"], found["z"], [0.0] * len(found["z"]), "accuracy", 0, manifest["hash"], manifest["task"],
        details=unknown, partition=manifest["partition"],
    ).save(args.output)  # fmt: skip
    print(f"{len(found['z'])} scores of expert set {manifest['hash'][:16]} in {args.output}")


def _read_pickle(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BODY + 1)
    except OSError as error:
        raise NDSError(f"cannot read {path}: {error.strerror}.") from None


def search(args: argparse.Namespace) -> None:
    """Show what will be sent, ask, send."""
    scores = Scores.load(args.scores) if args.scores else None
    options = SearchOptions(
        args.budget, args.share, None if args.source is None else tuple(args.source), args.temperature,
        args.normalisation, args.selector, args.seed, args.title, parse_privacy(args.privacy),
    )  # fmt: skip
    with Service(args.server) as service:
        set_id, expert_hash = current_experts(service)
        if scores is not None:
            check_current(scores, expert_hash, service.address)
        body = make_request(scores, expert_hash, options)
        print(disclosure(body, scores, options, service.address), flush=True)
        if not args.yes:
            _ask()
        found, new = send(service, body, set_id)
    if not new:
        print(
            f"The same request was sent before: this is the search of {printable(found.get('created'), 40)}."
        )
    result = found["result"]
    shares = sorted(result["share_by_source"].items(), key=lambda item: -item[1])
    print(tabulate([(printable(name, 60), f"{share:.1%}") for name, share in shares], ["source", "share"]))
    print(
        f"{result['images']} images; {result['effective_clusters']:.1f} effective clusters, effective sample size "
        f"{result['effective_sample_size']:.0f}."
    )
    print(f"search {found['id']}: nds-client download --search {found['id']} --output DIR")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise NDSError("nobody is there to ask: add --yes to send this. Nothing was sent.")
    try:
        answer = input("Send it? [y/N] ")
    except EOFError:
        print()
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NDSError("not sent.")


def searches(args: argparse.Namespace) -> None:
    """List the user's searches, or delete one."""
    with Service(args.server) as service:
        if args.delete:
            service.delete(f"searches/{checked_id(args.delete)}")
            print(f"deleted {args.delete}")
            return
        rows = [
            {
                "search": printable(entry.get("id"), 64),
                "created": printable(entry.get("created"), 40),
                "images": printable(_part(entry, "result", dict).get("images"), 20),
                "title": printable(_part(entry, "request", dict).get("title", ""), 60),
            }
            for entry in own_searches(service)
        ]
    print(tabulate(rows, headers="keys") if rows else "no searches.")


def manifest(args: argparse.Namespace) -> None:
    """Download the list of a search's images."""
    kind = args.format or _ENDINGS.get(Path(args.output).suffix, "csv")
    with Service(args.server) as service:
        _save_manifest(service, args.search, kind, Path(args.output))
    print(f"wrote {args.output}")


def _save_manifest(service: Service, search_id: str, kind: str, path: Path) -> None:
    here = f"searches/{checked_id(search_id)}"
    if kind == "d2":
        service.save(f"{here}/config", {}, path)
    else:
        service.save(f"{here}/manifest", {"format": kind}, path)


def download_images(args: argparse.Namespace) -> None:
    """Fetch the images of a search."""
    config = DownloadConfig(
        connections=args.connections,
        politeness=Politeness(args.per_host, args.rate),
        fetch=FetchConfig(
            retries=args.retries, timeout=args.timeout, max_bytes=args.max_mb << 20,
            placeholders=known_placeholders(args.placeholder),
        ),
        retry_failed=args.retry_failed,
    )  # fmt: skip
    summary = download(_list_of_images(args), args.output, config)
    print(report(summary, Path(args.output)))
    if summary.failed:
        raise SystemExit(MISSING_IMAGES)


def _list_of_images(args: argparse.Namespace) -> list[Wanted]:
    if args.manifest:
        return read_images(args.manifest)
    with Service(args.server) as service, tempfile.TemporaryDirectory(prefix="nds-") as folder:
        images = read_search(service, args.search)["result"].get("images")
        path = Path(folder) / "manifest.csv"
        _save_manifest(service, args.search, "csv", path)
        found = read_images(path)
    if len(found) != images:
        raise NDSError(f"the manifest of {args.search} lists {len(found)} images, the search has {images}.")
    return found


def report(summary: Summary, folder: Path) -> str:
    """A download's outcome for people."""
    megabytes, seconds = summary.fetched_bytes / 1e6, max(summary.seconds, 1e-9)
    lines = [
        f"{summary.there + summary.fetched} of {summary.wanted} images in {folder}: {summary.fetched} fetched "
        f"({megabytes:.1f} MB, {summary.fetched / seconds:.1f} images a second), {summary.there} were there."
    ]
    if summary.failed:
        lines.append(tabulate(summary.failed.most_common(), headers=["not there because", "images"]))
        again = f" {summary.not_tried} were not tried again (--retry-failed)." if summary.not_tried else ""
        lines.append(f"{folder / FAILURES} lists them.{again}")
    for md5, count in summary.suspicious.items():
        lines.append(
            f"{count} images have the same bytes (MD5 {md5}): if that is a picture for removed photos, start "
            f"again with --placeholder {md5}."
        )
    return "\n".join(lines)
