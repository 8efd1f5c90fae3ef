"""Limits: rates, bodies, times and heads of requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_demo import copied, running
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from nds_plugin.service.server.app import create_app, is_heavy
from nds_plugin.service.server.protocol import MAX_HEAD, GuardedProtocol
from nds_plugin.service.server.rate_limit import RateLimit
from nds_plugin.service.server.security import ABORT, BodyLimit, Defects, Timeouts, content_security_policy
from nds_plugin.service.server.settings import Limits, Settings

LIMITS = Limits(receive_s=0.2, respond_s=0.2, stall_s=0.2, body_bytes=1000)


@pytest.fixture(scope="module")
def store(service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(service_store, tmp_path_factory.mktemp("limits") / "copy")


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a running server."""
    with running(store) as url:
        yield "127.0.0.1", int(url.rsplit(":", 1)[1])


def scope_of(
    address: str = "10.0.0.1", method: str = "GET", path: str = "/api/v1/health", **headers: str
) -> Scope:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "client": (address, 1), "headers": lines}


class Sent:
    """What an app sends."""

    def __init__(self, delay: float = 0.0) -> None:
        self.messages: list[Message] = []
        self._delay = delay

    async def __call__(self, message: Message) -> None:
        if message.get("body"):
            await asyncio.sleep(self._delay)
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])


def test_a_burst_is_taken_and_then_one_request_per_interval() -> None:
    now = [100.0]
    limits = Limits(requests_per_minute=60, burst=5)
    rate = RateLimit(None, limits, heavy=lambda _: False, clock=lambda: now[0])  # type: ignore[arg-type]
    assert [rate.wait(scope_of()) for _ in range(5)] == [0.0] * 5
    assert rate.wait(scope_of()) == pytest.approx(1.0)
    now[0] += 0.5
    assert rate.wait(scope_of()) == pytest.approx(0.5)
    now[0] += 0.5
    assert rate.wait(scope_of()) == 0.0
    now[0] += 3600
    assert [rate.wait(scope_of()) for _ in range(6)].count(0.0) == 5


def test_addresses_do_not_share_a_limit_but_one_ipv6_network_does() -> None:
    limits = Limits(requests_per_minute=60, burst=1)
    rate = RateLimit(None, limits, heavy=lambda _: False, clock=lambda: 0.0)  # type: ignore[arg-type]
    assert rate.wait(scope_of("10.0.0.1")) == 0.0
    assert rate.wait(scope_of("10.0.0.2")) == 0.0
    assert rate.wait(scope_of("2001:db8:1:2:3:4:5:6")) == 0.0
    assert rate.wait(scope_of("2001:db8:1:2:ffff::1")) > 0
    assert rate.wait(scope_of("2001:db8:1:3::1")) == 0.0
    assert rate.wait(scope_of("2001:db8::1")) == 0.0
    assert rate.wait(scope_of("2001:db8::2:0:0:0")) > 0
    assert rate.wait(scope_of("2001:db8:0:1::1")) == 0.0
    assert rate.wait(scope_of("::ffff:10.0.0.1")) > 0
    assert rate.wait(scope_of("::ffff:10.0.0.3")) == 0.0
    assert rate.wait(scope_of("a name")) == 0.0


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    rate = RateLimit(None, Limits(), heavy=lambda _: False)  # type: ignore[arg-type]
    for number in range(21_000):
        rate.wait(scope_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(rate._buckets) == 20_000


def test_costly_requests_have_a_limit_of_their_own() -> None:
    limits = Limits(requests_per_minute=6000, burst=100, heavy_per_minute=2)
    rate = RateLimit(None, limits, heavy=is_heavy, clock=lambda: 0.0)  # type: ignore[arg-type]
    create = scope_of(method="POST", path="/api/v1/searches")
    assert [rate.wait(create) > 0 for _ in range(4)] == [False, False, True, True]
    assert rate.wait(scope_of(path="/api/v1/searches/x/manifest")) > 0
    assert rate.wait(scope_of(path="/api/v1/searches/x/images")) == 0.0


def test_too_many_requests_get_a_429_that_says_when_to_come_back(store: Path) -> None:
    app = create_app(Settings(store, limits=Limits(requests_per_minute=30, burst=3)))
    with TestClient(app) as client:
        answers = [client.get("/api/v1/health") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "2"
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert "content-security-policy" in answers[3].headers
    assert answers[3].json()["status"] == 429


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def receiving(*pieces: bytes, delay: float = 0.0) -> Receive:
    left = list(pieces)

    async def receive() -> Message:
        await asyncio.sleep(delay)
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


@pytest.mark.parametrize(
    ("pieces", "headers", "status"),
    [
        ([b"a" * 1000], {"content_length": "1000"}, 200),
        ([b"a" * 500, b"a" * 500], {"transfer_encoding": "chunked"}, 200),
        ([b"a" * 1001], {"content_length": "1001"}, 413),
        ([b"a" * 500, b"a" * 501], {"transfer_encoding": "chunked"}, 413),
        ([b"a"], {"content_length": "9" * 5000}, 413),
        ([b"a" * 2000], {"content_length": "5"}, 413),
        ([b"a"], {"content_length": "1", "content_encoding": "gzip"}, 415),
    ],
)
def test_bodies_are_read_up_to_the_limit(pieces: list[bytes], headers: dict[str, str], status: int) -> None:
    sent = Sent()
    asyncio.run(BodyLimit(echo, LIMITS)(scope_of(method="POST", **headers), receiving(*pieces), sent))
    assert sent.status == status
    if status == 200:
        assert sent.messages[1]["body"] == b"".join(pieces)


def test_a_body_that_trickles_in_gets_a_408() -> None:
    sent = Sent()
    scope = scope_of(method="POST", content_length="20")
    asyncio.run(BodyLimit(echo, LIMITS)(scope, receiving(*[b"a"] * 20, delay=0.05), sent))
    assert sent.status == 408


def test_an_answer_that_does_not_begin_gets_a_503() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(5)

    sent = Sent()
    start = time.monotonic()
    asyncio.run(Timeouts(slow, LIMITS)(scope_of(), receiving(), sent))
    assert sent.status == 503
    assert dict(sent.messages[0]["headers"])[b"retry-after"] == b"10"
    assert time.monotonic() - start < 2


def test_a_long_answer_is_no_slow_one_while_the_client_reads() -> None:
    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    sent = Sent()
    asyncio.run(Timeouts(long, LIMITS)(scope_of(), receiving(), sent))
    assert len(sent.messages) == 10


def test_a_client_that_stops_reading_is_let_go() -> None:
    left: list[bool] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
        finally:
            left.append(True)

    dropped: list[bool] = []
    scope = {**scope_of(), ABORT: lambda: dropped.append(True)}
    asyncio.run(Timeouts(endless, LIMITS)(scope, receiving(), Sent(delay=5)))
    assert left == dropped == [True]


def test_an_unforeseen_error_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret of the server")

    sent = Sent()
    asyncio.run(Defects(broken)(scope_of(), receiving(), sent))
    assert sent.status == 500
    assert b"secret" not in sent.messages[1]["body"]
    assert "a secret of the server" in caplog.text


def test_the_policy_names_the_hosts_of_thumbnails_while_they_are_few() -> None:
    assert "img-src 'self' data: https://a.example https://b.example;" in content_security_policy(
        ["https://b.example", "https://a.example", "https://a.example"]
    )
    many = content_security_policy(f"https://farm{k}.example" for k in range(41))
    assert "img-src 'self' data: https:;" in many
    assert "unsafe" not in many


def test_a_link_of_an_index_cannot_write_the_policy() -> None:
    odd = [
        "https://x;script-src https://evil.example",
        "https://a,b",
        "http://user@host",
        "https://*",
        "https://ö.example",
    ]
    assert content_security_policy(odd) == content_security_policy()
    assert "https://[2001:db8::1]:8443;" in content_security_policy(["https://[2001:db8::1]:8443"])


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """What the server answers to raw bytes, up to the end of the connection."""
    with socket.create_connection(address, timeout=2 + GuardedProtocol.head_seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return received


@pytest.mark.slow
def test_an_endless_head_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        try:
            while sent < 50 * MAX_HEAD:
                sent += connection.send(b"X-Long: " + b"a" * 4000 + b"\r\n")
            answer = connection.recv(1000)
        except OSError:  # closed while we were still sending
            return
        assert answer.startswith(b"HTTP/1.1 431") or answer == b""


def test_a_long_head_below_the_limit_is_read(address: tuple[str, int]) -> None:
    lines = b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"a" * (
        MAX_HEAD - 2000
    )
    assert exchange(address, lines + b"\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_a_head_that_never_ends_is_not_waited_for(address: tuple[str, int]) -> None:
    start = time.monotonic()
    answer = exchange(address, b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert GuardedProtocol.head_seconds - 1 < time.monotonic() - start < GuardedProtocol.head_seconds + 5


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS greeting
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/searches HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/searches HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/searches HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_no_http_gets_a_400(address: tuple[str, int], data: bytes) -> None:
    assert exchange(address, data).startswith(b"HTTP/1.1 4")


def test_after_all_this_the_server_answers_as_before(address: tuple[str, int]) -> None:
    assert httpx.get(f"http://127.0.0.1:{address[1]}/api/v1/health").json()["status"] == "ok"


@pytest.mark.slow
def test_a_download_that_is_not_read_ends_on_a_real_connection(store: Path) -> None:
    import uvicorn

    limits = Limits(stall_s=1.0)
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(Settings(store, limits=limits)), log_config=None, http=GuardedProtocol)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        current = httpx.get(f"http://127.0.0.1:{bound.getsockname()[1]}/api/v1/health").json()["expert_set"]
        path = f"/api/v1/expert-sets/{current}/files/expert_0000.safetensors"
        with socket.create_connection(bound.getsockname(), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(3)  # more than the limit; the kernel's buffers are full long before
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(1 << 20):
                    received += len(piece)
            assert received < 44_000_000
    finally:
        server.should_exit = True
        thread.join(15)


def test_a_server_listens_on_this_machine_alone_unless_told(address: tuple[str, int]) -> None:
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows: list[Any] = [line.split() for line in table][1:]
    listening = {row[1] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == address[1]}
    assert listening == {f"0100007F:{address[1]:04X}"}
