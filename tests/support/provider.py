"""A provider of images on loopback that misbehaves as told by the path; a process of its own.

``/ok/NAME`` serves :func:`photo`; the other first parts of a path are the methods ``do_...`` below. What
says "N times" does so for the first N requests of that path and then serves the photo. ``/stats`` tells
how often each path was asked for and how many requests were in flight at most.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image


@functools.lru_cache(maxsize=4096)
def photo(name: str) -> bytes:
    """A JPEG that the name alone decides."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


MOODS = ("well", "well", "reset", "cut", "busy", "moved", "slow", "missing", "wrong")
LOST = {"missing": "not found", "wrong": "checksum"}


def mood(name: str) -> str:
    """How the file of this name is served; all but those of ``LOST`` arrive in the end."""
    return MOODS[zlib.crc32(name.encode()) % len(MOODS)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counts: ClassVar[Counter[str]] = Counter()
    in_flight = most = 0
    lock = threading.Lock()
    delay = 0.0
    root: ClassVar[Path | None] = None

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        kind, *parts = self.path.strip("/").split("?")[0].split("/")
        if kind == "stats":
            self._send(json.dumps({"counts": self.counts, "most": self.most}).encode(), "application/json")
            return
        with self.lock:
            self.counts[self.path] += 1
            self.number = self.counts[self.path]
            type(self).in_flight += 1
            type(self).most = max(self.most, self.in_flight)
        try:
            time.sleep(self.delay)
            file = self.root and self.root / self.path.split("?")[0].strip("/")
            if file and file.is_file():
                self._file(file)
            else:
                getattr(self, f"do_{kind}")(*parts)
        finally:
            with self.lock:
                type(self).in_flight -= 1

    def _send(self, body: bytes, kind: str = "image/jpeg", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _headers(self, length: int | None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def _file(self, file: Path) -> None:
        body, how = file.read_bytes(), mood(file.name)
        if how == "missing":
            return self._send(b"no", "text/plain", 404)
        if how == "wrong":
            return self._send(photo(file.name))
        if self.number == 1 and how == "reset":
            return self.do_reset("1", "")
        if self.number == 1 and how == "cut":
            self._headers(len(body))
            self.wfile.write(body[: len(body) // 2])
            return None
        if self.number == 1 and how == "busy":
            return self._send(b"later", "text/plain", 429, Retry_After="1")
        if "?" not in self.path and how == "moved":
            return self._send(b"", status=302, Location=f"{self.path}?moved")
        if how == "slow":
            time.sleep(0.2)
        return self._send(body)

    def do_ok(self, *name: str) -> None:
        self._send(photo(name[-1]))

    def do_large(self, name: str) -> None:
        """A picture of some 270 KB."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(buffer, "PNG")
        self._send(buffer.getvalue(), "image/png")

    def do_status(self, status: str, *_: str) -> None:
        self._send(b"no", "text/plain", int(status))

    def do_error(self, status: str, times: str, wait: str, name: str) -> None:
        """The status N times, with Retry-After unless ``wait`` is "-"."""
        if self.number > int(times):
            return self.do_ok(name)
        return self._send(
            b"later", "text/plain", int(status), **({} if wait == "-" else {"Retry_After": wait})
        )

    def do_reset(self, times: str, name: str) -> None:
        if self.number > int(times):
            return self.do_ok(name)
        # Closing with lingering off sends a reset instead of a proper end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        raise ConnectionAbortedError

    def do_cut(self, times: str, name: str) -> None:
        """A length, and half of the body."""
        if self.number > int(times):
            return self.do_ok(name)
        self._headers(len(photo(name)))
        self.wfile.write(photo(name)[: len(photo(name)) // 2])
        return None

    def do_half(self, name: str) -> None:
        """No length, and half of the body: nothing says that it is not all."""
        self._headers(None)
        self.wfile.write(photo(name)[: len(photo(name)) // 2])

    def do_plain(self, name: str) -> None:
        """No length, and all of the body."""
        self._headers(None)
        self.wfile.write(photo(name))

    def do_trickle(self, name: str) -> None:
        """Bytes without end, each in time."""
        self._headers(len(photo(name)))
        with contextlib.suppress(OSError):
            for byte in photo(name):
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)

    def do_stall(self, name: str) -> None:
        self._headers(len(photo(name)))
        self.wfile.flush()
        time.sleep(30)

    def do_html(self, name: str) -> None:
        self._send(b"<html>this photo moved</html>", "text/html")

    def do_gzip(self, name: str) -> None:
        self._send(gzip.compress(photo(name)), Content_Encoding="gzip")

    def do_endless(self, name: str) -> None:
        self._headers(None)
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def do_redirect(self, *where: str) -> None:
        """To the path that follows; ``/redirect/file`` and ``/redirect/port`` to what no client follows."""
        elsewhere = {"file": "file:///etc/passwd", "port": "http://127.0.0.1:65536/"}
        target = elsewhere.get(where[0], "/" + "/".join(where))
        self._send(b"", status=302, Location=target)

    def do_loop(self, *_: str) -> None:
        self._send(b"", status=301, Location=self.path)

    def do_images(self, *_: str) -> None:
        """What stands behind a removed photo's redirect."""
        self._send(photo("placeholder"))

    def do_placeholder(self, *_: str) -> None:
        self._send(photo("placeholder"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *args: Any) -> None:
        pass


class Provider:
    """A running provider."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/stats") as answer:
            return json.load(answer)

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return self._stats()["counts"].get(path, 0)

    @property
    def counts(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(self._stats()["counts"])

    @property
    def most_at_once(self) -> int:
        """The largest number of requests in flight."""
        return int(self._stats()["most"])


@contextlib.contextmanager
def provider(delay: float = 0.0, folder: Path | None = None) -> Iterator[Provider]:
    """A provider as a process of its own, whose every answer takes ``delay`` seconds."""
    command = [sys.executable, __file__, str(delay), *([str(folder)] if folder else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Provider(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    _Handler.delay = float(sys.argv[1])
    _Handler.root = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
