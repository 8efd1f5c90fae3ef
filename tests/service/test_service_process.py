"""The server as a process: kills, publishing meanwhile, no torch, memory that does not grow."""

from __future__ import annotations

import concurrent.futures
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from as_user import User
from service_demo import ADMIN, ROOT, copied, other_experts, parts_of, running, start

from nds_plugin.service.published.publishing import publish

pytestmark = pytest.mark.slow  # processes of their own, each with Detectron2 or a server

FREE = ("--requests-per-minute", "0", "--heavy-per-minute", "0")


@pytest.fixture
def store(service_store: Path, tmp_path: Path) -> Path:
    return copied(service_store, tmp_path / "copy")


def body_of(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    scores = {"clusters": [0, 1, 2], "z": [0.9, 0.7, 0.4], "metric": "accuracy"}
    return {
        "expert_set": client.get("/health").json()["expert_set"],
        "scores": scores,
        "budget": 30,
        **fields,
    }


def client_of(address: str) -> httpx.Client:
    return httpx.Client(base_url=f"{address}/api/v1", timeout=30)


def test_the_server_process_never_loads_torch(store: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from starlette.testclient import TestClient
from nds_plugin.service.server import commands, memory
from nds_plugin.service.published import publishing
from nds_plugin.service.server.app import create_app
from nds_plugin.service.server.settings import Settings
from nds_plugin.service.server.protocol import GuardedProtocol
with TestClient(create_app(Settings(Path({str(store)!r}))), base_url="http://test/api/v1") as client:
    body = {{"expert_set": client.get("/health").json()["expert_set"], "budget": 3, "selector": "uniform"}}
    made = client.post("/searches", json=body).json()
    headers = {{"Authorization": "Bearer " + made["token"]}}
    for path in ("", "/images", "/mosaic", "/config", *("/manifest?format=" + f for f in ("csv", "json", "parquet", "coco"))):
        assert client.get("/searches/" + made["id"] + path, headers=headers).status_code == 200
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"torch", "torchvision", "detectron2", "sklearn", "matplotlib"}}, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_running_server_has_not_mapped_torch(store: Path) -> None:
    process, address = start(store, *FREE)
    try:
        with client_of(address) as client:
            assert client.post("/searches", json=body_of(client)).status_code == 201
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.terminate()
        process.wait()


def test_a_kill_in_the_middle_of_searches_loses_none_that_was_answered_and_doubles_none(store: Path) -> None:
    process, address = start(store, *FREE)
    port = address.rsplit(":", 1)[1]
    answered: dict[str, str] = {}
    asked: list[str] = []
    stop = threading.Event()
    with client_of(address) as client:
        token = client.post("/tokens").json()["token"]
        body = body_of(client)
    headers = {"Authorization": f"Bearer {token}"}

    def ask(number: int) -> None:
        with client_of(address) as client:
            for step in range(1000):
                if stop.is_set():
                    return
                key = f"search-{number}-{step:04d}"
                asked.append(key)
                try:
                    answer = client.post(
                        "/searches",
                        json={**body, "seed": step, "title": key},
                        headers={**headers, "Idempotency-Key": key},
                    )
                except httpx.HTTPError:
                    return
                assert answer.status_code == 201
                answered[key] = answer.json()["id"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(ask, number) for number in range(4)]
        while len(answered) < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stop.set()
        for job in jobs:
            job.result()
    process, _ = start(store, *FREE, "--port", port)
    try:
        with client_of(address) as client:
            # Whoever got no answer asks again under the same key.
            for key in asked:
                step = int(key.rsplit("-", 1)[1])
                answer = client.post(
                    "/searches",
                    json={**body, "seed": step, "title": key},
                    headers={**headers, "Idempotency-Key": key},
                )
                assert answer.status_code in (200, 201)
                if key in answered:
                    assert (answer.status_code, answer.json()["id"]) == (200, answered[key])
            kept = []
            cursor = None
            while True:
                page = client.get(
                    "/searches",
                    params={"limit": 100, **({"cursor": cursor} if cursor else {})},
                    headers=headers,
                ).json()
                kept += [search["request"]["title"] for search in page["searches"]]
                cursor = page["next"]
                if cursor is None:
                    break
            assert sorted(kept) == sorted(asked)
            some = next(iter(answered.values()))
            assert len(client.get(f"/searches/{some}/manifest", headers=headers).text.splitlines()) == 31
    finally:
        process.terminate()
        process.wait()


def test_searches_go_on_while_sets_are_published(store: Path) -> None:
    second = other_experts(store.parent / "experts0", store.parent / "experts1")
    with running(store, *FREE) as address, client_of(address) as client:
        first_set = client.get("/health").json()["expert_set"]
        seen: list[tuple[str, int, int]] = []
        stop = threading.Event()

        def search(seed: int) -> None:
            with client_of(address) as own:
                while not stop.is_set():
                    body = body_of(own, seed=seed)
                    made = own.post("/searches", json=body)
                    if made.status_code == 409:
                        continue  # published between the two requests
                    headers = {"Authorization": f"Bearer {made.json()['token']}"}
                    answer = own.get(f"/searches/{made.json()['id']}/manifest", headers=headers)
                    assert made.json()["expert_set"] == body["expert_set"]
                    seen.append((body["expert_set"], answer.status_code, len(answer.text.splitlines())))

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(search, seed) for seed in range(3)]
            new = publish(store, **{**parts_of(store), "experts": second})
            done = len(seen)
            while len(seen) < done + 10:
                time.sleep(0.01)
                assert all(job.running() for job in jobs), [job.result() for job in jobs if job.done()]
            stop.set()
            for job in jobs:
                job.result()
    assert {status for _, status, _ in seen} == {200}
    assert {lines for _, _, lines in seen} == {31}
    assert {name for name, _, _ in seen} == {first_set, new}


def test_the_admin_switches_the_set_of_every_server_on_a_store(store: Path) -> None:
    second = other_experts(store.parent / "experts0", store.parent / "experts1")
    with running(store) as one, running(store, "--database", f"sqlite:///{store}/other.sqlite") as two:
        first_set = httpx.get(f"{one}/api/v1/health").json()["expert_set"]
        new = publish(store, **{**parts_of(store), "experts": second})
        assert httpx.get(f"{two}/api/v1/health").json()["expert_set"] == new
        headers = {"Authorization": f"Bearer {ADMIN}"}
        answer = httpx.post(f"{one}/api/v1/admin/current", json={"expert_set": first_set}, headers=headers)
        assert answer.json() == {"expert_set": first_set}
        assert httpx.get(f"{two}/api/v1/health").json()["expert_set"] == first_set


def test_an_interrupt_ends_the_server_without_a_traceback(store: Path) -> None:
    process, _ = start(store)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "Traceback" not in (store / "server.log").read_text()


def test_a_stopped_server_finishes_the_downloads_that_run(store: Path) -> None:
    process, address = start(store, *FREE)
    with client_of(address) as client:
        current = client.get("/health").json()["expert_set"]
        name = "expert_0000.safetensors"
        with client.stream("GET", f"/expert-sets/{current}/files/{name}") as answer:
            pieces = answer.iter_bytes(100_000)
            size = len(next(pieces))
            process.terminate()
            size += sum(map(len, pieces))
            assert size == int(answer.headers["content-length"])
    assert process.wait(20) in (0, -signal.SIGTERM)


def test_memory_does_not_grow_with_the_number_of_downloads(store: Path) -> None:
    process, address = start(store, *FREE)
    try:
        with client_of(address) as client:
            made = client.post("/searches", json=body_of(client, budget=70)).json()
            current = made["expert_set"]
            headers = {"Authorization": f"Bearer {made['token']}"}
            urls = [
                f"/searches/{made['id']}/manifest?format={kind}"
                for kind in ("csv", "json", "parquet", "coco")
            ]
            urls += [f"/expert-sets/{current}/files/expert_0000.safetensors"] * 2

            def rounds(count: int) -> float:
                def one(number: int) -> None:
                    with client.stream("GET", urls[number % len(urls)], headers=headers) as answer:
                        assert answer.status_code == 200
                        for _ in answer.iter_raw(1 << 20):
                            pass

                with concurrent.futures.ThreadPoolExecutor(12) as pool:
                    list(pool.map(one, range(count)))
                status = Path(f"/proc/{process.pid}/status").read_text()
                return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

            first = rounds(36)
            assert rounds(72) < first + 20
    finally:
        process.terminate()
        process.wait()


MISTAKES = {
    "run --store STORE --port 99999": "cannot listen on 127.0.0.1 port 99999",
    "run --store STORE --host 203.0.113.7 --port 0": "cannot listen on 203.0.113.7",
    "run --store STORE --database nonsense": "expected a URL such as sqlite:///FILE",
    "--store STORE --port http": "invalid int value: 'http'; nds serve run --help lists the arguments",
    "sets --store none": "nothing is published in none yet",
    "publish --store STORE": "the following arguments are required: --index, --partition, --experts",
    "publish --store s --index none --partition x --experts y": "index file not found: none",
    "deploy": "invalid choice: 'deploy'",
    "--port 1": "the following arguments are required: --store",
    "publish --store s --index i": "the following arguments are required: --partition, --experts",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_on_the_command_line_is_one_line(service_store: Path, user: User, line: str) -> None:
    arguments = [str(service_store) if word == "STORE" else word for word in line.split()]
    assert MISTAKES[line] in user.fails("serve", *arguments)


def test_a_port_that_is_taken_is_one_line(store: Path, user: User) -> None:
    with running(store) as address:
        port = address.rsplit(":", 1)[1]
        said = user.fails("serve", "run", "--store", str(store), "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another by --port" in said


def test_sets_are_listed_and_published_by_the_tool(store: Path) -> None:
    def tool(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "tools/serve.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    first = tool("sets", "--store", str(store)).splitlines()
    assert len(first) == 1
    assert first[0].startswith("* ")
    assert "72 images, K = 3" in first[0]
    parts = parts_of(store)
    second = other_experts(parts["experts"], store.parent / "experts1")
    options = [
        "--index",
        str(parts["index"]),
        "--partition",
        str(parts["partition"]),
        "--sources",
        str(parts["notes"]),
    ]
    said = tool("publish", "--store", str(store), *options, "--experts", str(second))
    assert re.match(r"published the set [0-9a-f]{16} in .*; it is the current one", said)
    listed = tool("sets", "--store", str(store)).splitlines()
    assert len(listed) == 2
    assert sum(line.startswith("* ") for line in listed) == 1
