"""``make gpu-check``: all of its code runs on a CPU at a tiny size, and without a GPU it says so and stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from as_user import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_every_part_runs_at_a_tiny_size_and_is_told_in_one_line_and_on_a_page(tmp_path: Path) -> None:
    done = gpu_check("--device", "cpu", "--tiny", "--page", str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout.splitlines()[-1])
    parts = document["parts"]
    assert list(parts) == ["detector", "one_rank", "experts", "scoring", "self_supervised"]
    assert parts["detector"]["seconds_an_iteration"] > 0
    assert parts["one_rank"]["largest_difference_of_gradients"] <= 1e-3
    assert parts["scoring"]["images"] == 6
    assert (
        min(parts["self_supervised"][f"{method}_auto_images_a_second"] for method in ("moco", "rotnet")) > 0
    )
    assert "| scoring | bare passes a second |" in (tmp_path / "page.md").read_text()


@pytest.mark.slow
def test_without_a_gpu_it_says_why_it_does_nothing_and_ends_well() -> None:
    done = gpu_check()
    assert done.returncode == 0
    assert "no GPU" in json.loads(done.stdout)["skipped"]
