"""Start the tools as a user does, in this process, and spoil files as disks and downloads do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nds_plugin import command_line

ROOT = Path(__file__).parents[2]
# Lines of the logs of this package and of torch, which may stand before the error.
_LOG = re.compile(r"\d{4}-\d\d-\d\d .* (INFO|WARNING) |(\[rank\d\]:)?[WE]\d{4} |WARNING ")
_CODE = re.compile(r" \[([a-z-]+)\]$")
LOGGERS = ("nds_plugin", "detectron2", "fvcore")


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def only_line(stderr: str) -> str:
    """The one line that is no log, without "error: " and the code at its end."""
    assert "Traceback" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.strip() and not _LOG.match(line)]
    assert len(lines) == 1, stderr
    assert stderr.rstrip().endswith(lines[0]), "the error must come last"
    assert lines[0].startswith("error: ")
    return _CODE.sub("", lines[0][len("error: ") :])


class User:
    """Somebody who starts tools and makes mistakes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def runs(self, name: str, *arguments: Any) -> str:
        """Start a tool that must succeed; what it prints."""
        self._monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        self._capsys.readouterr()
        command_line.run(tool(name).main)
        return self._capsys.readouterr().out

    def fails(self, name: str, *arguments: Any, code: str = "") -> str:
        """Start a tool that must refuse: exit status 2 and one line, which is returned.

        Args:
            code: that the line must end in, where it is given.
        """
        self._monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            command_line.run(tool(name).main)
        assert exit_info.value.code == 2
        line = self._capsys.readouterr().err.rstrip()
        assert not code or line.endswith(f" [{code}]"), line
        return only_line(line)


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Undo what Detectron2's set-up of logging changes, on which other tests depend."""
    before = [(log, log.propagate, log.level, list(log.handlers)) for log in map(logging.getLogger, LOGGERS)]
    try:
        yield
    finally:
        for log, propagate, level, handlers in before:
            log.propagate, log.handlers = propagate, handlers
            log.setLevel(level)


@contextlib.contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """No file can grow beyond ``largest`` bytes: the kernel refuses the write, as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def litter(folder: Path) -> list[str]:
    """Half-written files below a folder."""
    return [str(path) for path in folder.rglob("*.tmp")]


def cut(path: Path, size: int | None = None) -> None:
    """Leave the first bytes of a file, by default its half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if size is None else size])


def bomb(path: Path) -> None:
    """A PNG of a few hundred bytes that says it has 3,600,000,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


SPOIL: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "zero bytes": lambda path: path.write_bytes(b""),
    "truncated": lambda path: cut(path, path.stat().st_size // 3),
    "not an image": lambda path: path.write_text("hello"),
    "decompression bomb": bomb,
}


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file; ``change`` returns the new content, or None after changing its argument."""
    document = json.loads(path.read_text())
    new = change(document)
    path.write_text(json.dumps(document if new is None else new))
