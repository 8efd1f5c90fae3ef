from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nds_plugin.errors import NDSError
from nds_plugin.files import locking
from nds_plugin.files.locking import build_once, try_lock, turn_in, writable_folder


def test_what_is_ready_is_not_built(tmp_path: Path) -> None:
    build_once(tmp_path / "x", lambda: True, lambda: pytest.fail("built"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NDSError, match=r"cannot write .*\.x\.lock: "):
        build_once(tmp_path / "file" / "x", lambda: False, lambda: None)


def test_waiting_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = os.open(tmp_path / ".x.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    built: list[int] = []
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(
            target=build_once, args=(tmp_path / "x", lambda: False, lambda: built.append(1))
        )
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not built
        os.close(holder)
        thread.join(10)
    assert built == [1]
    assert "another process is making" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)  # no such file system is at hand
    with pytest.raises(NDSError, match=r"cannot lock .*/\.x\.lock: .* has no file locks .*local_lock=flock"):
        build_once(tmp_path / "x", lambda: False, lambda: pytest.fail("built without a lock"))
    with turn_in(tmp_path):
        assert f"{tmp_path} is on a file system without locks: see to it that no other job" in caplog.text


def test_a_lock_is_gone_with_its_holder_unless_a_child_inherited_it(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from nds_plugin.files.locking import try_lock
lock, inherited = try_lock(sys.argv[1]), try_lock(sys.argv[2])
child = subprocess.Popen(["sleep", "60"], pass_fds=(inherited.descriptor,), stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    lost, inherited = str(tmp_path / "lost"), str(tmp_path / "inherited")
    holder = subprocess.run(
        [sys.executable, "-c", code, lost, inherited], stdout=subprocess.PIPE, text=True, check=False
    )
    try:
        assert try_lock(lost) is not None
        assert try_lock(inherited) is None
    finally:
        os.kill(int(holder.stdout), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (lock := try_lock(inherited)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lock is not None


def test_whoever_shares_a_folder_can_lock_its_files(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        build_once(tmp_path / "x", lambda: False, lambda: None)
    finally:
        os.umask(before)
    assert (tmp_path / ".x.lock").stat().st_mode & 0o777 == 0o666


def test_a_read_only_tree_is_cached_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = str(tmp_path / "data")
    assert writable_folder(tmp_path / "data" / "stores", "stores") == tmp_path / "data" / "stores"
    # Root may write anywhere, so the answer of the system is set here, for this tree alone.
    real = os.access
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(locking.os, "access", lambda p, mode: not str(p).startswith(data) and real(p, mode))
    assert (
        writable_folder(tmp_path / "data" / "stores", "stores")
        == tmp_path / "cache" / "nds_plugin" / "stores"
    )
    with turn_in(tmp_path / "data"):  # what is finished there can be read
        assert not list((tmp_path / "data").iterdir())
