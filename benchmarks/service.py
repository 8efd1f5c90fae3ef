"""The web service under load at OpenImages' size, beside a bare FastAPI hello-world.

    python benchmarks/service.py

Publishes a made-up set of 1,743,042 images and experts of random weights, starts the server as a
process and loads it from this one; wrk (Debian's package) asks in parallel.
The last line is JSON:

    create_ms_p50, create_ms_p99   the server's own time for POST /searches with a budget of 200,000,
                                   no two alike, one after the other (its Server-Timing header)
    stream_mb_s     one CSV manifest of 200,000 images on loopback, median, MB of 10^6 bytes
    rss_mb          the server's peak resident memory over all of it, 50 parallel downloads included
    errors          answers that were not the expected ones, of all that were asked for
    vs_hello        requests a second of GET /api/v1/health over those of hello-world, 32 connections; null
                    without wrk, since a client in Python would be what is measured
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

IMAGES = 1_743_042  # OpenImages, the paper's Table 3
BUDGET = 200_000
CLUSTERS = 20
ROOT = Path(__file__).parents[1]
HEAD = {"Content-Type": "application/json"}


def make_store(folder: Path, images: int) -> Path:
    """A published set of that many made-up images, in three sources."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from nds_plugin.service.published.publishing import publish
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

    rng = np.random.default_rng(0)
    number = pa.array(np.arange(images)).cast(pa.string())
    ids = pc.utf8_lpad(number, 16, "0")
    text = {
        "source": pa.array(np.array(["openimages", "coco", "imagenet"])[np.sort(rng.integers(0, 3, images))]),
        "image_id": ids,
        "file_name": pc.binary_join_element_wise("/data/train/", ids, ".jpg", ""),
        "url": pc.binary_join_element_wise(
            "https://farm6.staticflickr.com/5600/", ids, "_0a1b2c3d4e_o.jpg", ""
        ),
        "license": pa.array(["https://creativecommons.org/licenses/by/2.0/"] * images),
        "checksum": pc.binary_join_element_wise(ids, "AbCd+/==", ""),
    }
    zeros = pa.array(np.zeros(images, np.int32))
    index = SourceIndex(pa.table({**text, "width": zeros, "height": zeros, "label": zeros}), ["thing"])
    cluster = rng.integers(0, CLUSTERS, images)
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    index.save(folder / "index.parquet", index.hash)
    partition.save(folder / "partition.parquet", partition.hash)
    make_experts(folder / "experts", partition.hash, index.hash)
    publish(folder / "store", folder / "index.parquet", folder / "partition.parquet", folder / "experts")
    return folder / "store"


def make_experts(folder: Path, partition: str, index: str) -> None:
    """Experts of random weights with a manifest, in a process of its own: torch stays out of this one."""
    code = f"""
from nds_plugin.files.artifacts import file_hash, write_json
from nds_plugin.experts.manifest import ARCH, KIND, MANIFEST, expert_file, set_hash
from nds_plugin.experts.expert_set import write_network
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.networks import MEAN, STD, build_network
from pathlib import Path
folder, entries = Path({str(folder)!r}), []
for k in range({CLUSTERS}):
    path = folder / expert_file(k)
    write_network(path, build_network(4, seed=k).state_dict(), {{"key": str(k), "outputs": 4}})
    entries.append({{"cluster": k, "file": path.name, "sha256": file_hash(path), "images": 1, "steps": 1}})
manifest = {{
    "task": "rotation", "arch": ARCH, "crop_size": 224, "resize_size": resize_size(224), "mean": list(MEAN),
    "std": list(STD), "classes": ["0", "90", "180", "270"], "partition": {partition!r}, "index": {index!r},
    "sources": [], "config": {{}}, "experts": entries, "shared": None,
}}
write_json(folder / MANIFEST, KIND, "benchmark", {{**manifest, "hash": set_hash(manifest)}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def hello(port_file: str) -> None:
    """In a process of its own: a bare FastAPI app under uvicorn."""
    import socket

    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    def world() -> dict[str, str]:
        return {"hello": "world"}

    bound = socket.create_server(("127.0.0.1", 0), backlog=512)
    Path(port_file).write_text(str(bound.getsockname()[1]))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[bound])


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is stopped at the end."""
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


class Loader:
    """Asks a server, and counts what went wrong.

    Args:
        address: such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, address: str) -> None:
        self.address, self.asked, self.errors = address, 0, 0

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """An answer's JSON and headers, over a connection of its own."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=120)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {**HEAD, **(headers or {})})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.asked += 1
        self.errors += answer.status >= 300
        return json.loads(data), answer.headers

    def download(self, path: str, token: str) -> int:
        """Bytes of a streamed answer."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=300)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        buffer, size = memoryview(bytearray(1 << 20)), 0
        while count := answer.readinto(buffer):
            size += count
        self.asked += 1
        self.errors += answer.status != 200 or size < BUDGET
        connection.close()
        return size


def wait_for(address: str) -> None:
    """Wait until a server answers."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)
            connection.request("GET", "/api/v1/health")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise SystemExit(f"no answer from {address}")


def creating(load: Loader, count: int) -> tuple[list[float], list[dict[str, Any]], str]:
    """Create searches one after the other: server times in ms, the searches and their token."""
    current = load.ask("GET", "/api/v1/health")[0]["expert_set"]
    token = load.ask("POST", "/api/v1/tokens")[0]["token"]
    rng = np.random.default_rng(1)
    times, made = [], []
    for seed in range(count):
        scores = {
            "clusters": list(range(CLUSTERS)),
            "z": rng.random(CLUSTERS).round(4).tolist(),
            "metric": "accuracy",
        }
        body = {"expert_set": current, "scores": scores, "budget": BUDGET, "seed": seed, "temperature": 0.3}
        answer, headers = load.ask("POST", "/api/v1/searches", body, {"Authorization": f"Bearer {token}"})
        times.append(float(re.search(r"dur=([0-9.]+)", headers["Server-Timing"])[1]))  # type: ignore[index]
        made.append(answer)
    return times, made, token


def streaming(load: Loader, made: list[dict[str, Any]], token: str, rounds: int, kind: str) -> float:
    """MB of 10^6 bytes a second of one download, median."""
    speeds = []
    for search in made[:rounds]:
        start = time.perf_counter()
        size = load.download(search["result"]["links"]["manifest"][kind], token)
        speeds.append(size / 1e6 / (time.perf_counter() - start))
    return statistics.median(speeds)


def downloads_at_once(load: Loader, made: list[dict[str, Any]], token: str, at_once: int) -> float:
    """MB a second of many downloads of different searches together."""
    paths = [made[i % len(made)]["result"]["links"]["manifest"]["csv"] for i in range(at_once)]
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        size = sum(pool.map(lambda path: load.download(path, token), paths))
    return size / 1e6 / (time.perf_counter() - start)


def requests_per_second(load: Loader, url: str, seconds: int) -> float:
    """Requests a second over 32 connections, asked by wrk."""
    done = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{seconds}s", url], capture_output=True, text=True, check=True
    )
    count = int(re.search(r"(\d+) requests in", done.stdout)[1])  # type: ignore[index]
    failed = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", done.stdout)))
    failed += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout)))
    load.asked, load.errors = load.asked + count, load.errors + failed
    return float(re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)[1])  # type: ignore[index]


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--creates", type=int, default=200, help="searches to create")
    parser.add_argument("--downloads", type=int, default=50, help="parallel downloads")
    parser.add_argument(
        "--seconds", type=int, default=8, help="of each of the three rounds beside hello-world"
    )
    parser.add_argument("--store", help="keep the made-up set in this folder and use it again")
    parser.add_argument("--hello", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hello:
        hello(args.hello)
        return
    with tempfile.TemporaryDirectory(prefix="nds-service-") as temporary:
        folder = Path(args.store or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / "store"
        if not (store / "current.json").is_file():
            start = time.perf_counter()
            make_store(folder, args.images)
            print(f"a set of {args.images:,} images published after {time.perf_counter() - start:.0f} s")
        database = f"sqlite:///{temporary}/searches.sqlite"
        unlimited = ("--requests-per-minute", "0", "--heavy-per-minute", "0", "--quiet", "--port", "0")
        with process(
            "tools/serve.py", "run", "--store", str(store), "--database", database, *unlimited
        ) as server:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())[0]  # type: ignore[index]
            print(json.dumps(measure(args, address, server.pid, Path(temporary))))


def measure(args: argparse.Namespace, address: str, pid: int, temporary: Path) -> dict[str, Any]:
    """All measurements on a running server."""
    load = Loader(address)
    wait_for(address)
    times, made, token = creating(load, args.creates)
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    print(
        f"{args.creates} searches of {BUDGET:,} images: {p50:.0f} ms at the median, {max(times):.0f} at most"
    )
    one = streaming(load, made, token, 9, "csv")
    others = {kind: streaming(load, made, token, 3, kind) for kind in ("json", "parquet", "coco")}
    print(f"one download: csv {one:.0f} MB/s, " + ", ".join(f"{k} {v:.0f} MB/s" for k, v in others.items()))
    many = downloads_at_once(load, made, token, args.downloads)
    print(f"{args.downloads} downloads at once: {many:.0f} MB/s together (the loader is Python too)")
    peak = peak_mb(pid)
    ratio = beside_hello(load, address, temporary, args.seconds) if shutil.which("wrk") else None
    print(f"{load.errors} errors in {load.asked:,} requests")
    return {
        "create_ms_p50": round(p50, 1),
        "create_ms_p99": round(p99, 1),
        "stream_mb_s": round(one, 1),
        "rss_mb": round(max(peak, peak_mb(pid))),
        "errors": load.errors,
        "vs_hello": ratio,
    }


def beside_hello(load: Loader, address: str, temporary: Path, seconds: int) -> float:
    """Median of three rounds: our health's requests a second over hello-world's."""
    port_file = temporary / "port"
    ratios = []
    with process(__file__, "--hello", str(port_file)):
        while not (port_file.is_file() and port_file.read_text()):
            time.sleep(0.05)
        bare = f"http://127.0.0.1:{port_file.read_text()}"
        wait_for(bare)
        for _ in range(3):
            ours = requests_per_second(load, f"{address}/api/v1/health", seconds)
            theirs = requests_per_second(load, f"{bare}/", seconds)
            print(f"health {ours:.0f} requests/s, hello-world {theirs:.0f} requests/s")
            ratios.append(ours / theirs)
    return round(statistics.median(ratios), 2)


if __name__ == "__main__":
    main()
