"""Artefacts are complete or absent."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.files import artifacts


def test_an_error_while_writing_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_half() -> None:
        with artifacts.atomic_write(path, "w") as file:
            file.write("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE as Linux has it")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the file size stands in for the full disk; the write itself fails in the kernel."""
    path = tmp_path / "a.parquet"
    artifacts.write_table(path, "t", "old", pa.table({"x": [1]}), {})
    code = (
        "import resource, signal, sys, errno, os\n"
        "import pyarrow as pa, numpy as np\n"
        "from nds_plugin.files import artifacts\n"
        "from nds_plugin.errors import NDSError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "table = pa.table({'x': np.random.default_rng(0).random(100000)})\n"
        "try:\n"
        f"    artifacts.write_table({str(path)!r}, 't', 'new', table, {{}})\n"
        "except (NDSError, OSError) as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("CannotWriteError disk full while writing")
    assert artifacts.is_valid(path, "t", "old")
    assert os.listdir(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_each_way_of_running_out_of_space_is_named(tmp_path: Path, number: int) -> None:
    with pytest.raises(NDSError, match="disk full"), artifacts.atomic_write(tmp_path / "a"):
        raise OSError(number, "no space")


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a file")
    with pytest.raises(NDSError, match="cannot write"), artifacts.atomic_write(tmp_path / "f" / "a"):
        pass


def test_json_keeps_its_header_and_is_valid_by_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json(path, "thing", "k1", {"x": 1})
    assert artifacts.read_json(path, "thing")["x"] == 1
    assert artifacts.is_valid(path, "thing", "k1")
    assert not artifacts.is_valid(path, "thing", "k2")
    assert not artifacts.is_valid(path, "other", "k1")
    assert not artifacts.is_valid(tmp_path / "none.json", "thing", "k1")


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        artifacts.write_json(tmp_path / "a.json", "thing", "k", {"x": float("nan")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "thing", "ver', "not a complete JSON file"),
        ("[1]", "expected a JSON object of kind 'thing', got a list"),
        ('{"kind": "other", "version": 1, "key": "k"}', "expected a file of kind 'thing', got 'other'"),
        ('{"kind": "thing", "version": 99, "key": "k"}', "written in version 99"),
        ('{"kind": "thing", "version": 1}', "its header has no key"),
    ],
)
def test_what_is_not_the_artefact_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(NDSError, match=message):
        artifacts.read_json(path, "thing")


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(NDSError, match="not one that nds_plugin wrote"):
        artifacts.read_table(tmp_path / "a.parquet", "thing")


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert artifacts.content_hash({"a": 1, "b": 2}) == artifacts.content_hash(json.loads('{"b": 2, "a": 1}'))


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nds_plugin.files.artifacts import atomic_write\n"
        "with atomic_write(sys.argv[1], 'w') as file: file.write('1 \\xb1 2 \\u2020')"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environment, check=True)
    assert (tmp_path / "a").read_bytes() == "1 ± 2 †".encode()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_permissions_and_flushed_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "chmod", refuse)  # no such file system is at hand
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: refuse() if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd))
    with artifacts.atomic_write(tmp_path / "a", "w") as file:
        file.write("x")
    assert (tmp_path / "a").read_text() == "x"


def test_the_users_mask_decides_who_may_read(tmp_path: Path) -> None:
    code = "import sys; from nds_plugin.files.artifacts import atomic_write\nwith atomic_write(sys.argv[1]): pass"
    path = tmp_path / "a"
    subprocess.run([sys.executable, "-c", code, path], check=True, umask=0o007)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
