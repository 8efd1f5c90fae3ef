"""Long work in parts, by processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.store.parts import Unit, map_parts


def _die_but_for_the_first(argument: tuple[int, Path]) -> pa.Table:
    number, signalled = argument
    while number and not signalled.exists():
        time.sleep(0.01)
    if number:
        os.kill(os.getpid(), signal.SIGKILL)
    return pa.table({"number": [number]})


def test_a_process_killed_between_two_units_is_told_in_one_line(tmp_path: Path) -> None:
    signalled = tmp_path / "signalled"
    units = [Unit(f"key{number}", (number, signalled)) for number in range(20)]
    parts = map_parts(units, _die_but_for_the_first, tmp_path, "reading x", processes=2)
    assert next(parts).column("number").to_pylist() == [0]
    signalled.touch()
    while multiprocessing.active_children():  # the pool knows once all have ended
        time.sleep(0.01)
    with pytest.raises(NDSError, match=r"reading x: one of the processes was killed, .*: start again"):
        next(parts)
