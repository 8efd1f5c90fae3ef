"""The main job as a user starts it: end to end, killed and resumed, on one and two processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # processes of their own, each with Detectron2 or a server

ROOT = Path(__file__).parents[3]
SMALL = [
    *("DATASETS.TRAIN", "('nds_data_city_train',)", "DATASETS.TEST", "('nds_data_city_val',)"),
    *("NDS.SOURCE.DATASETS", "('nds_data_street_train', 'nds_data_room_train')"),
    *("NDS.PARTITION.NUM_CLUSTERS", "2", "NDS.EXPERTS.STEPS", "3", "NDS.EXPERTS.SHARED_STEPS", "3"),
    *("NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.BATCH_SIZE", "4", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.BUDGET.SHARE", "0.5"),
    *(
        "NDS.TARGET.NUM_IMAGES",
        "12",
        "NDS.PRETRAIN.SOLVER.MAX_ITER",
        "8",
        "NDS.PRETRAIN.SOLVER.STEPS",
        "(6,)",
    ),
    *("NDS.PRETRAIN.SOLVER.IMS_PER_BATCH", "4", "NDS.PRETRAIN.INPUT.MIN_SIZE_TRAIN", "(64, 72)"),
    *(
        "SOLVER.IMS_PER_BATCH",
        "4",
        "SOLVER.MAX_ITER",
        "4",
        "SOLVER.STEPS",
        "(3,)",
        "SOLVER.WARMUP_ITERS",
        "2",
    ),
    *("SOLVER.CHECKPOINT_PERIOD", "1", "INPUT.MIN_SIZE_TEST", "72", "DATALOADER.NUM_WORKERS", "1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_datasets: Path) -> Path:
    """The tiny domains where NDS_DATA would be."""
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(tiny_datasets, root / "detection")
    return root


def _command(output: Path, *extra: str, processes: int = 1, flags: Sequence[str] = ()) -> list[str]:
    tool = [sys.executable, "-W", "ignore", str(ROOT / "tools/train_net.py"), "--config", "nds_sample.yaml"]
    arguments = [*flags, "--num-gpus", str(processes), "--dist-url", "auto"]
    own = ["OUTPUT_DIR", str(output), "NDS.WORK_DIR", str(output.parent / "nds")]
    return [*tool, *arguments, *SMALL, *own, *extra]


def _environment(data: Path) -> dict[str, str]:
    return {**os.environ, "NDS_DATA": str(data), "OMP_NUM_THREADS": "1"}


def _run(data: Path, output: Path, *extra: str, processes: int = 1, flags: Sequence[str] = ()) -> str:
    done = subprocess.run(
        _command(output, *extra, processes=processes, flags=flags),
        env=_environment(data),
        capture_output=True,
        text=True,
        timeout=400,
        cwd=output.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _weights(output: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(output / stage / "model_final.pth", weights_only=True)["model"]


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    _run(data, output)
    return output


def test_the_main_job_leaves_results_with_config_seed_versions_and_times(unbroken: Path) -> None:
    results = json.loads((unbroken / "results.json").read_text())
    assert set(results["summary"]) >= {"AP_bb", "AP50_bb", "AP", "AP50", "per_category"}
    assert results["selection"]["images"] == 24
    assert len(results["selection"]["z"]) == 2
    assert results["seed"] == 0
    assert results["versions"]["torch"] == torch.__version__
    assert {"index", "partition", "experts", "scores", "pretrain", "finetune"} <= set(results["times"])
    mapped = [match for match in results["transfer"]["classes"] if match["source"]]
    assert {match["target"] for match in mapped} == {"bicycle", "bus", "car", "person"}


def test_a_second_start_trains_nothing_again(data: Path, unbroken: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in unbroken.rglob("*.pth")}
    log = _run(data, unbroken)
    assert before == {p: p.stat().st_mtime_ns for p in unbroken.rglob("*.pth")}
    for step in (
        "index",
        "partition",
        "experts",
        "scores",
        "selection",
        "pretrain",
        "finetune",
        "evaluation",
    ):
        assert re.search(rf"{step}: kept ", log), step


def test_a_job_that_was_moved_finds_its_parts_and_trains_nothing_again(data: Path, unbroken: Path) -> None:
    here, there = unbroken.parent, unbroken.parent.with_name("mounted elsewhere")
    here.rename(there)  # with the folder of artefacts
    try:
        moved = there / unbroken.name
        document = json.loads((moved / "results.json").read_text())
        paths = document["selection"]["artefacts"]
        assert all(path.startswith("../nds/") for path in paths.values())
        # As results were written before paths were relative.
        document["selection"]["artefacts"] = {k: str(here / "nds" / Path(p).name) for k, p in paths.items()}
        (moved / "results.json").write_text(json.dumps(document))
        page = there / "page.html"
        tool = [sys.executable, "-W", "ignore", str(ROOT / "tools/compare_runs.py"), str(moved)]
        subprocess.run([*tool, "--output", str(page)], capture_output=True, check=True, timeout=100)
        assert (there / "page_pictures" / "clusters.png").is_file()
        before = {p: p.stat().st_mtime_ns for p in there.rglob("*.pth")}
        log = _run(data, moved)
        assert "evaluation: kept " in log
        assert before == {p: p.stat().st_mtime_ns for p in there.rglob("*.pth")}
        again = json.loads((moved / "results.json").read_text())
        assert again["selection"]["artefacts"] == paths
        assert again["selection"]["work_dir"] == str(there / "nds")
    finally:
        there.rename(here)


def test_another_job_of_the_same_pretraining_takes_it(data: Path, unbroken: Path) -> None:
    output = unbroken.parent / "other_client"
    log = _run(data, output, "SOLVER.MAX_ITER", "1", "NDS.TRANSFER.LOOSE_NAMES", "True")
    assert "pretrain: taken from " in log
    assert _equal(_weights(output, "pretrain"), _weights(unbroken, "pretrain"))


def test_a_run_killed_after_pretraining_tests_the_pretrained_detector_then(
    data: Path, unbroken: Path
) -> None:
    output = unbroken.parent / "killed_after_pretraining"
    shutil.copytree(unbroken, output)
    (output / "results.json").unlink()
    log = _run(data, output, "NDS.EVALUATE_PRETRAINED", "True")
    assert "pretrain: kept " in log
    before = json.loads((output / "results.json").read_text())["pretrained"]
    assert set(before["classes"]) == {"bicycle", "bus", "car", "person"}
    assert set(before["per_category"]) == set(before["per_category_bb"]) == set(before["classes"])


def _kill_in_a_checkpoint(data: Path, output: Path, *extra: str, processes: int = 1) -> None:
    """Start the job and kill -9 all of it while it writes a checkpoint of pretraining."""
    for kept in (output.parent / "nds").glob("pretraining-*"):  # of an earlier run, which it would take
        shutil.rmtree(kept)
    process = subprocess.Popen(
        _command(output, *extra, processes=processes),
        env=_environment(data),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=output.parent,
    )
    folder, deadline = output / "pretrain", time.time() + 300
    while time.time() < deadline and process.poll() is None:
        if len(list(folder.glob("model_*.pth"))) >= 3 and list(folder.glob(".model*.tmp")):
            break
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / "last_checkpoint").is_file()
    assert not (folder / "finished.json").exists(), "the run was over before it could be killed"


def test_a_killed_run_resumes_to_the_very_same_weights(data: Path, unbroken: Path) -> None:
    output = unbroken.parent / "killed"
    _kill_in_a_checkpoint(data, output)
    log = _run(data, output)
    assert "was interrupted: going on from its last checkpoint" in log
    assert _equal(_weights(output, "pretrain"), _weights(unbroken, "pretrain"))
    assert _equal(_weights(output, "finetune"), _weights(unbroken, "finetune"))


def test_a_killed_run_resumes_on_another_number_of_processes(data: Path, unbroken: Path) -> None:
    """Every step compares its batch with the selection's stream, on each process; see DrawMonitor."""
    output = unbroken.parent / "one_then_two"
    _kill_in_a_checkpoint(data, output)
    log = _run(data, output, processes=2)
    assert "was interrupted: going on from its last checkpoint" in log
    assert "World size: 2" in log
    assert (output / "results.json").is_file()


def test_another_config_trains_anew_and_keeps_the_earlier_run(data: Path, unbroken: Path) -> None:
    output = unbroken.parent / "changed"
    _kill_in_a_checkpoint(data, output)
    log = _run(data, output, "NDS.SEED", "1", "NDS.PRETRAIN.SOLVER.MAX_ITER", "3")
    assert "training starts anew" in log
    assert (output / "pretrain.old1" / "last_checkpoint").is_file()


STREAM = ["NDS.MODE", "stream", "NDS.BUDGET.SHARE", "0.0", "NDS.RESCORE.ITERS", "(2,)"]


def test_a_run_that_scored_again_resumes_with_the_new_weights(data: Path, unbroken: Path) -> None:
    straight, killed = unbroken.parent / "stream", unbroken.parent / "stream_killed"
    log = _run(data, straight, *STREAM, "NDS.SCORING.MAX_IMAGES", "6")
    assert "experts scored again" in log
    _kill_in_a_checkpoint(data, killed, *STREAM, "NDS.SCORING.MAX_IMAGES", "6")
    again = _run(data, killed, *STREAM, "NDS.SCORING.MAX_IMAGES", "6")
    assert "experts scored again" not in again
    assert _equal(_weights(killed, "pretrain"), _weights(straight, "pretrain"))


def test_the_drawn_shares_are_in_the_metrics(unbroken: Path) -> None:
    lines = [json.loads(line) for line in (unbroken / "pretrain" / "metrics.json").read_text().splitlines()]
    drawn = [
        line["nds/drawn/cluster_0"] + line["nds/drawn/cluster_1"]
        for line in lines
        if "nds/drawn/cluster_0" in line
    ]
    assert drawn
    assert drawn[-1] == pytest.approx(1.0)


def test_eval_only_evaluates_the_fine_tuned_weights(data: Path, unbroken: Path) -> None:
    said = _run(data, unbroken, flags=["--eval-only"])
    assert "nds_data_city_val" in said
    assert "box AP" in said


def test_select_only_shows_the_draw_of_the_whole_job_and_trains_nothing(data: Path, unbroken: Path) -> None:
    output = unbroken.parent / "looked_at"
    said = _run(data, output, flags=["--select-only"], processes=2)
    drawn = json.loads((unbroken / "results.json").read_text())["selection"]
    assert Path(drawn["path"]).name in said
    page = (output / "selection.html").read_text()
    assert "The clusters that scored best" in page
    assert "nds_data_street_train" in page
    assert not {"pretrain", "finetune", "results.json", "report.html"} & {p.name for p in output.iterdir()}
