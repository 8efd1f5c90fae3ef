"""A small published store, with real experts, and the server as a process of its own."""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from nds_plugin.datasets.coco.split import index_coco
from nds_plugin.datasets.sample.generate import generate
from nds_plugin.experts.manifest import MANIFEST, set_hash
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.service.published.publishing import publish
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

ROOT = Path(__file__).parents[2]
DOMAINS = ("street", "meadow", "room")
ADMIN = "an admin token of the tests"
EXPERTS = ExpertConfig(crop_size=32, steps=2, shared_steps=2, batch_size=2, base_lr=0.02, precision="fp32")


def build_parts(
    folder: Path,
    provider: str = "http://127.0.0.1:9",
    images: int = 24,
    domains: Sequence[str] = DOMAINS,
    seed: int = 0,
) -> dict[str, Path]:
    """Index, partition and experts of the synthetic sample, one cluster per domain.

    The pictures lie in ``folder/sample/DOMAIN/images/``; their links are ``provider/DOMAIN/images/NAME``.

    Args:
        seed: of the experts: another seed, another expert set.
    """
    sample = folder / "sample"
    generate(sample, train_images=images, val_images=4, size=(96, 72), domains=[*domains, "city"])
    indexes = []
    for name in domains:
        index = index_coco(sample / name / "train.json", sample / name / "images", source=name)
        indexes.append(_linked(index, f"{provider}/{name}/images"))
    index = SourceIndex.join(indexes)
    source = index.column("source")
    cluster = [domains.index(name) for name in source]
    partition = Partition(
        pa.array(cluster, pa.int32()).to_numpy(), index.table, index.hash, method="kmeans", seed=0
    )
    index.save(folder / "index.parquet", index.hash)
    partition.save(folder / "partition.parquet", partition.hash)
    config = ExpertConfig(**{**EXPERTS.__dict__, "seed": seed})
    train_experts(index, partition, config, folder / f"experts{seed}", progress=False)
    notes = "".join(
        f"{name}:\n  thumbnails: true\n  homepage: https://example.org/{name}\n" for name in domains
    )
    (folder / "sources.yaml").write_text(notes)
    return {
        "index": folder / "index.parquet",
        "partition": folder / "partition.parquet",
        "experts": folder / f"experts{seed}",
        "notes": folder / "sources.yaml",
    }


def _linked(index: SourceIndex, base: str) -> SourceIndex:
    """The index with links and MD5 sums, as OpenImages publishes them (base64)."""
    table = index.table
    files = [Path(name) for name in table.column("file_name").to_pylist()]
    sums = [base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode() for path in files]
    for column, values in (("url", [f"{base}/{path.name}" for path in files]), ("checksum", sums)):
        table = table.set_column(table.column_names.index(column), column, pa.array(values))
    return SourceIndex(table, index.classes)


def build_store(folder: Path, provider: str = "http://127.0.0.1:9", **options: object) -> Path:
    """A store with one published set, in ``folder/store``."""
    parts = build_parts(folder, provider, **options)  # type: ignore[arg-type]
    publish(folder / "store", **parts)
    return folder / "store"


def parts_of(store: Path) -> dict[str, Path]:
    """Index, partition, experts and notes that :func:`build_store` published."""
    names = {
        "index": "index.parquet",
        "partition": "partition.parquet",
        "experts": "experts0",
        "notes": "sources.yaml",
    }
    return {name: store.parent / file for name, file in names.items()}


def copied(store: Path, target: Path) -> Path:
    """The store and its parts in another folder, to be changed; the large files are shared (hard links)."""
    shutil.copytree(
        store.parent,
        target,
        copy_function=_link,
        ignore=shutil.ignore_patterns("sample", "*.sqlite*", "*.log", "databases.json"),
    )
    return target / store.name


def _link(origin: str, target: str) -> None:
    if origin.endswith((".safetensors", ".arrow")):
        os.link(origin, target)
    else:
        shutil.copyfile(origin, target)


def other_experts(experts: Path, target: Path) -> Path:
    """The same networks as an expert set of another hash, as if they had been trained in another way."""
    shutil.copytree(experts, target, copy_function=_link)
    path = target / MANIFEST
    document = json.loads(path.read_text())
    document["config"]["steps"] = 1234
    document["hash"] = set_hash(document)
    path.write_text(json.dumps(document))
    return target


@contextlib.contextmanager
def running(store: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The server on a free port; its address, such as ``http://127.0.0.1:40123``."""
    process, address = start(store, *arguments, env=env)
    try:
        yield address
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(
    store: Path, *arguments: str, env: dict[str, str] | None = None, log: Path | None = None
) -> tuple[subprocess.Popen[str], str]:
    """Start the server as a process; it and its address, once it answers."""
    command = [sys.executable, str(ROOT / "tools/serve.py"), "run", "--store", str(store), "--quiet"]
    if "--port" not in arguments:
        command += ["--port", "0"]
    log = log or Path(store) / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NDS_ADMIN_TOKEN": ADMIN, **(env or {})}
    with open(log, "a") as errors:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    if match is None:
        process.kill()
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
    wait_for(f"{match[0]}/api/v1/openapi.json", process)
    return process, match[0]


def wait_for(url: str, process: subprocess.Popen[str], seconds: float = 30) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                process.kill()
                raise RuntimeError(f"no answer from {url}") from None
            time.sleep(0.05)


def main() -> None:
    """Build a store and serve it until it is stopped: ``python tests/service_demo.py --port 8000``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", help="where to build it (default: a temporary folder)")
    parser.add_argument("--provider", default="http://127.0.0.1:9", help="start of the images' links")
    args, rest = parser.parse_known_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="nds-service-"))
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store"
    if not (store / "current.json").is_file():
        build_store(folder, args.provider)
    with running(store, *rest) as address:
        print(address, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
