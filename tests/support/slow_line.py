"""A slow and unreliable line between a client and a server, both on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class SlowLine:
    """Forwards connections to a port.

    Attributes:
        port: to connect to.
        target: the port that is forwarded to; may be changed.
        rate: bytes a second back to the client, 0 for no limit.
        cut_after: break the connection after this many bytes back, once; None not to.
        lose_answers: how many of the next POST requests reach the server without their answers coming back.
        lost: how many did.
        back: bytes that went back to the client so far.
    """

    def __init__(self, target: int) -> None:
        self.target, self.rate, self.lose_answers, self.lost, self.back = target, 0, 0, 0, 0
        self.cut_after: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The line's end, as an address of a server."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self) -> None:
        """Accept connections until :meth:`close`."""
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _forward(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            _break(near)
            return
        silent = threading.Event()
        threading.Thread(target=self._up, args=(near, far, silent), daemon=True).start()
        with contextlib.suppress(OSError):
            while (block := far.recv(1 << 16)) and not silent.is_set():
                if self.cut_after is not None and self.back + len(block) > self.cut_after:
                    block, self.cut_after = block[: max(0, self.cut_after - self.back)], None
                    near.sendall(block)
                    self.back += len(block)
                    break
                near.sendall(block)
                self.back += len(block)
                if self.rate:
                    time.sleep(len(block) / self.rate)
        _break(near)
        far.close()

    def _up(self, near: socket.socket, far: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while block := near.recv(1 << 16):
                if block.startswith(b"POST /api/v1/searches") and self.lose_answers:
                    self.lose_answers -= 1
                    silent.set()
                    far.sendall(block)
                    _send_rest(near, far)
                    self.lost += 1
                    return
                far.sendall(block)
        far.close()


def _send_rest(near: socket.socket, far: socket.socket) -> None:
    """Send what is left of a request; its answer ends the other direction, and with it the connection."""
    near.settimeout(0.3)
    with contextlib.suppress(OSError):
        while block := near.recv(1 << 16):
            far.sendall(block)


def _break(connection: socket.socket) -> None:
    """End a connection at once, also where another thread waits on it (which closing alone does not)."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def slow_line(target: int) -> Iterator[SlowLine]:
    """A running line."""
    line = SlowLine(target)
    threading.Thread(target=line.serve, daemon=True).start()
    try:
        yield line
    finally:
        line.close()
