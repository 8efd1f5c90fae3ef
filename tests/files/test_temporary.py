"""Temporary files: gone when their writer is, safe as long as it lives."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.files import temporary
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.files.temporary import is_temporary, new_link, remove_leftovers

WHOLE = b"x" * 1_000_000
# A writer that stops where it is told to, says so, and goes on when it reads a line.
WRITER = """
    import os, sys
    from nds_plugin.files import temporary
    from nds_plugin.files.artifacts import atomic_write
    path, place = sys.argv[1:]

    def stop():
        print("there", flush=True)
        sys.stdin.readline()

    def stopping_before(function):
        once = [stop]
        def stopped(*args, **kwargs):
            if once:
                once.pop()()
            return function(*args, **kwargs)
        return stopped

    if place == "made":  # the file is there, and not yet locked
        temporary._flock = stopping_before(temporary._flock)
    if place == "closed":  # written and closed, and not yet renamed
        os.replace = stopping_before(os.replace)
    with atomic_write(path) as file:
        file.write(b"x" * 500_000)
        file.flush()
        if place == "half":
            stop()
        file.write(b"x" * 500_000)
    print("done", flush=True)
"""


@contextmanager
def _writer(path: Path, place: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes ``path`` and has come to a place."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(WRITER), str(path), place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _goes_on(writer: subprocess.Popen[str]) -> None:
    out, _ = writer.communicate("\n", timeout=60)
    assert out == "done\n"
    assert writer.returncode == 0


def _temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_temporary(path.name)]


@pytest.mark.parametrize("place", ["half", "closed"])
def test_what_kill_9_leaves_is_removed_by_the_next_who_writes_there(tmp_path: Path, place: str) -> None:
    with _writer(tmp_path / "a.pth", place) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    (left,) = _temporary_files(tmp_path)
    assert left.stat().st_size >= 500_000
    with atomic_write(tmp_path / "b.json", "w") as file:
        file.write("whole")
    assert os.listdir(tmp_path) == ["b.json"]


@pytest.mark.parametrize("place", ["half", "closed"])
def test_a_living_writer_keeps_its_file(tmp_path: Path, place: str) -> None:
    with _writer(tmp_path / "a.pth", place) as writer:
        with atomic_write(tmp_path / "b.json", "w") as file:
            file.write("whole")
        assert remove_leftovers(tmp_path) == []
        assert len(_temporary_files(tmp_path)) == 1
        _goes_on(writer)
    assert (tmp_path / "a.pth").read_bytes() == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "b.json"]


def test_a_file_that_is_taken_before_its_writer_could_lock_it_is_made_again(tmp_path: Path) -> None:
    with _writer(tmp_path / "a.pth", "made") as writer:
        assert len(remove_leftovers(tmp_path)) == 1
        _goes_on(writer)
    assert os.listdir(tmp_path) == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == WHOLE


def test_a_writer_in_another_pid_namespace_keeps_its_file(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a pid namespace")
    with _writer(tmp_path / "a.pth", "half", *unshare) as writer:
        assert remove_leftovers(tmp_path) == []
        _goes_on(writer)
    assert (tmp_path / "a.pth").read_bytes() == WHOLE


def test_many_writes_beside_one_who_cleans_all_the_time_are_whole(tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from nds_plugin.files.artifacts import atomic_write
        for number in range(200):
            with atomic_write({str(tmp_path)!r} + f"/{{number}}", "w") as file:
                file.write(str(number))
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=root) as writer:
        while writer.poll() is None:
            remove_leftovers(tmp_path)  # takes what is made and not yet locked, now and then
    assert writer.returncode == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(n): str(n) for n in range(200)
    }


def _left(folder: Path, kernel: str) -> Path:
    path = folder / f".a.pth.nds-{kernel}-abcd_012.tmp"
    path.write_bytes(b"half")
    return path


def test_what_another_machine_left_is_removed_when_it_is_old_and_nobody_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = _left(tmp_path, "0" * 8)
    assert remove_leftovers(tmp_path) == []
    monkeypatch.setattr(temporary, "ABANDONED", -1.0)
    with open(left, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert remove_leftovers(tmp_path) == []
    assert remove_leftovers(tmp_path) == [left.name]
    assert not left.exists()


def test_without_locks_age_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> Any:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with atomic_write(tmp_path / "a.pth") as file:
        assert remove_leftovers(tmp_path) == []
        file.write(WHOLE)
    left = _left(tmp_path, temporary._kernel())
    assert remove_leftovers(tmp_path) == []
    monkeypatch.setattr(temporary, "ABANDONED", -1.0)
    assert remove_leftovers(tmp_path) == [left.name]
    assert (tmp_path / "a.pth").read_bytes() == WHOLE


def test_files_of_others_are_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "ABANDONED", -1.0)
    names = ["notes.tmp", ".hidden.tmp", ".a.pth.abcd_012.tmp", ".a.swp", "nds-00000000-abcd_012.tmp"]
    for name in names:
        (tmp_path / name).write_text("mine")
    inside = tmp_path / ".d.nds-00000000-abcd_012.tmp"
    inside.mkdir()
    assert remove_leftovers(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == sorted([*names, inside.name])
    assert remove_leftovers(tmp_path / "none") == []


def test_a_second_name_is_held_and_goes_with_its_block_but_not_the_file(tmp_path: Path) -> None:
    source = tmp_path / "weights.pth"
    source.write_bytes(WHOLE)
    with new_link(tmp_path / "x", source) as name, new_link(tmp_path / "y", source) as other:
        assert is_temporary(os.path.basename(name))
        assert remove_leftovers(tmp_path) == []
        assert os.path.samefile(name, other)
    assert os.listdir(tmp_path) == ["weights.pth"]
    left = tmp_path / f".x.nds-{temporary._kernel()}-abcd_012.tmp"
    os.link(source, left)
    assert remove_leftovers(tmp_path) == [left.name]
    assert source.read_bytes() == WHOLE


def test_names_tell_whose_file_it_is(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a b.json"):
        (file,) = tmp_path.iterdir()
        assert re.fullmatch(r"\.a b\.json\.nds-[0-9a-f]{8}-\w{8}\.tmp", file.name)
