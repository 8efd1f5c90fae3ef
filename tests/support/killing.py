"""Processes that a test kills in the middle of their work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def started_until(
    code: str, is_time: Callable[[], bool], *arguments: str, seconds: float = 60
) -> subprocess.Popen[bytes]:
    """A Python process that runs the code, at the moment when ``is_time`` first says so; it is the caller's to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + seconds
    while not is_time() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def killed_when(code: str, is_time: Callable[[], bool], *arguments: str) -> None:
    """Run the code in a process of its own and kill it by -9 when it is time."""
    process = started_until(code, is_time, *arguments)
    process.kill()
    process.wait()


def killed_after_line(code: str, line: str, *arguments: str) -> None:
    """Run the code in a process of its own and kill it by -9 as soon as it has printed the line."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().decode() == f"{line}\n"
    process.kill()
    process.wait()
