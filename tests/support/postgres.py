"""A PostgreSQL of the tests' own, from Debian's binaries, in a temporary folder and on a socket there."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


def binaries() -> Path:
    """Debian's folder of PostgreSQL's programs, or the one on the path; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _user() -> Sequence[str]:
    """Words in front of a command that PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return ()
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """A fresh cluster; the URL of its database."""
    programs, user = binaries(), _user()
    # Not pytest's folder: it may lie where the user postgres cannot go, and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="nds-pg-") as folder:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        data, log = f"{folder}/data", f"{folder}/log"

        def program(name: str, *arguments: str) -> None:
            done = subprocess.run(
                [*user, str(programs / name), *arguments], capture_output=True, text=True, cwd=folder
            )
            if done.returncode:
                text = Path(log).read_text() if Path(log).exists() else ""
                raise RuntimeError(f"{name}: {done.stdout}{done.stderr}{text}")

        program(
            "initdb", "-D", data, "-U", "nds", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C"
        )
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        program("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://nds@/postgres?host={folder}"
        finally:
            program("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
