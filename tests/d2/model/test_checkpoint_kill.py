"""A training run that is killed in the middle of a save."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

KILLS = """
    import json, os, random, signal, sys, time
    import torch
    from torch import nn
    from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
    from detectron2.checkpoint import DetectionCheckpointer
    torch.set_num_threads(1)
    folder, kills, atomic = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "atomic"

    def model():
        return nn.ParameterList(nn.Parameter(torch.zeros(1_000_000)) for _ in range(25))  # 100 MB

    def resumed(kind):
        mine = model()
        rest = kind(mine, folder).resume_or_load("", resume=True)
        values = {float(x) for p in mine for x in (p.detach().min(), p.detach().max())}
        return values, rest.get("iteration", -1)

    def save_for_ever(start):
        mine = model()
        kind = AtomicCheckpointer if atomic else DetectionCheckpointer
        checkpointer = kind(mine, folder)
        for iteration in range(start, 1000):
            with torch.no_grad():
                for p in mine:
                    p.fill_(iteration)
            checkpointer.save(f"model_{iteration % 3:07d}", iteration=iteration)

    delays, results, start = random.Random(7), [], 0
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            save_for_ever(start)
        deadline = time.monotonic() + 30
        while not os.path.exists(folder + "/last_checkpoint") and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delays.uniform(0.2, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        half = any(name.endswith(".tmp") for name in os.listdir(folder))
        try:
            values, iteration = resumed(AtomicCheckpointer if atomic else DetectionCheckpointer)
            results.append([sorted(values), iteration, half])
            start = iteration + 1
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_save_never_costs_the_newest_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLS), str(tmp_path), "5", "atomic"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Resuming at" not in done.stderr  # no fallback was needed
    results = json.loads(done.stdout.strip().splitlines()[-1])
    assert any(in_a_save for _, _, in_a_save in results)
    for values, iteration, _ in results:
        assert values == [iteration]  # every weight is of the iteration that the file says
    iterations = [iteration for _, iteration, _ in results]
    assert iterations == sorted(iterations)
    assert iterations[0] >= 0
