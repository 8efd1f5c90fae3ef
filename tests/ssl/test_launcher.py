"""The processes that --num-gpus starts: what they tell, how they end, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ssl_jobs import write_folders
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from nds_plugin.command_line import run
from nds_plugin.errors import NDSError
from nds_plugin.ssl import launcher, processes

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(config: Path, output: Path, *changes: str) -> list[str]:
    words = [str(config), "--num-gpus", "2", "OUTPUT_DIR", str(output), *changes]
    return [sys.executable, "-m", "nds_plugin.commands.train_ssl", *words]


def is_alive(process: psutil.Process) -> bool:
    """Not so one that has ended and that nobody has asked after."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("codes", "status", "told"),
    [
        ({0: 2, 1: -15}, 2, ""),
        ({0: 2, 1: 1}, 2, ""),
        ({0: 1, 1: 2}, 2, ""),
        ({1: 1, 0: -15}, 1, ""),
        ({1: -9, 0: -15}, 2, "error: process 1 was ended by SIGKILL"),
    ],
)
def test_the_exit_status_is_that_of_what_the_processes_have_told(
    codes: dict[int, int],
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures = {}
    for number, (rank, code) in enumerate(codes.items()):
        failures[rank] = ProcessFailure(rank, 1, code, str(tmp_path / "none"))
        failures[rank].timestamp = number

    def fails(_: object) -> None:
        raise ChildFailedError("job", failures)

    monkeypatch.setattr(launcher.torchrun, "run", fails)
    monkeypatch.setattr("logging.disable", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        run(lambda: launcher.main(["-m", "job"]))
    assert caught.value.code == status
    assert capsys.readouterr().err.startswith(told)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "7", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(processes, "end_with_parent", lambda by_signal: None)
    with pytest.raises(NDSError) as caught:
        processes.join_processes(on_gpus=True)
    told = "torchrun started 8 processes here, but torch sees 4 GPUs: --nproc_per_node 4, or DEVICE cpu."
    assert str(caught.value) == told


@pytest.mark.slow
def test_a_mistake_that_a_process_finds_is_a_line_and_exit_status_2(tmp_path: Path) -> None:
    config = write_folders(tmp_path / "data")
    path = tmp_path / "data/target/bee/01.png"
    path.write_bytes(path.read_bytes()[:-40])
    done = subprocess.run(command(config, tmp_path / "run"), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines[0].startswith("error: target_train: 1 of 12 images cannot be read")
    assert all("has lost the others" in line for line in lines[1:])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_job_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    config = write_folders(tmp_path / "data")
    endless = ["PRETRAIN.ITERATIONS", "1000000", "NUM_WORKERS", "1"]
    words = command(config, tmp_path / "run", *endless)
    job = psutil.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run/pretrain/last_checkpoint").exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = job.children(recursive=True)
    assert len(started) >= 4
    job.send_signal(number)
    assert job.wait(60) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    deadline = time.monotonic() + 60
    while alive := [process for process in started if is_alive(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
