"""Laws of the grid: order, claims, retries, kills, limits, and the file that collects the cells."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from killing import killed_when, started_until

from nds_plugin.errors import NDSError, UnknownNameError
from nds_plugin.experiments.results import ResultsFile, key_of, of_configs, record, write_results_file
from nds_plugin.experiments.rows import Cell, Row
from nds_plugin.experiments.runner import ATTEMPTS, CELL, Job, Outcome, run_jobs
from nds_plugin.experiments.spec import GRIDS, grid_of, parse_seeds
from nds_plugin.files.artifacts import read_json, write_json
from nds_plugin.files.locking import NAME, folder_lock, try_lock

ROW = Row("client", "uniform", 0.2, "client_uniform_20", "mini/Base-mini.yaml")


def job(folder: Path, script: str, seed: int = 0, config_hash: str = "hash") -> Job:
    cell = Cell(ROW, seed)
    return Job(cell, folder / cell.name, ("/bin/sh", "-c", script), config_hash)


def finish(done: Job, seconds: float) -> None:
    write_json(done.folder / CELL, "cell", done.config_hash, {"seconds": seconds})


def run(jobs: list[Job], places: int = 1, **options: Any) -> Outcome:
    return run_jobs(jobs, [{"PLACE": str(i)} for i in range(places)], finish, **options)


# -- which cells ------------------------------------------------------------------------------------


def test_the_arms_are_interleaved_seed_by_seed() -> None:
    cells = GRIDS["mini"].cells(range(3))
    rows = len(GRIDS["mini"].rows)
    assert len(cells) == 72
    assert [cell.seed for cell in cells] == [seed for seed in range(3) for _ in range(rows)]
    assert [cell.row for cell in cells[:rows]] == list(GRIDS["mini"].rows)


def test_names_of_cells_are_unique_in_every_grid() -> None:
    for grid in GRIDS.values():
        names = [cell.name for cell in grid.cells()]
        assert len(set(names)) == len(names)
        assert len({cell.identity for cell in grid.cells()}) == len(names)


def test_rows_are_chosen_by_patterns() -> None:
    chosen = GRIDS["mini"].cells([4], ["cityscapes_uniform_*", "*_oracle_20"])
    assert [cell.name for cell in chosen] == [
        "cityscapes_uniform_10/seed4", "cityscapes_uniform_20/seed4", "cityscapes_oracle_20/seed4",
        "cityscapes_uniform_40/seed4", "ccp_modanet13_oracle_20/seed4",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "seeds"), [("0-2", (0, 1, 2)), ("7", (7,)), ("0,3-4", (0, 3, 4))])
def test_seeds_are_ranges_and_lists(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(NDSError, match="expected numbers such as 0-2"):
        parse_seeds(text)


def test_unknown_tables_and_rows_are_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown table '6'. Known: 1, 2, 4, 5, mini"):
        grid_of("6")
    with pytest.raises(UnknownNameError, match="unknown row of table 4 'nds_24k'. Did you mean 'nds_"):
        GRIDS["4"].cells(only=["nds_24k"])
    with pytest.raises(NDSError, match="names a seed twice"):
        parse_seeds("0-2,1")


# -- running ----------------------------------------------------------------------------------------


def test_jobs_run_in_order_and_leave_their_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcome = run([job(tmp_path, f"echo hello {seed}; echo {seed} >> {log}", seed) for seed in range(3)])
    assert outcome.done == [f"client_uniform_20/seed{seed}" for seed in range(3)]
    assert log.read_text() == "0\n1\n2\n"
    assert "hello 1" in (tmp_path / "client_uniform_20/seed1/console.txt").read_text()
    assert not outcome.failed


def test_as_many_run_at_a_time_as_there_are_places(tmp_path: Path) -> None:
    script = f"echo s$PLACE >> {tmp_path}/log; sleep 0.6; echo e$PLACE >> {tmp_path}/log"
    run([job(tmp_path, script, seed) for seed in range(4)], places=2)
    events = (tmp_path / "log").read_text().split()
    running, most = 0, 0
    for event in events:
        running += 1 if event[0] == "s" else -1
        most = max(most, running)
    assert most == 2
    assert {event[1:] for event in events} == {"0", "1"}


def test_a_failed_job_is_tried_again_after_the_others(tmp_path: Path) -> None:
    script = f"echo A >> {tmp_path}/log; test -e {tmp_path}/again || {{ touch {tmp_path}/again; echo broken; exit 1; }}"
    outcome = run([job(tmp_path, script, 0), job(tmp_path, f"echo B >> {tmp_path}/log", 1)])
    assert (tmp_path / "log").read_text().split() == ["A", "B", "A"]
    assert not outcome.failed
    assert [
        a["status"]
        for a in read_json(tmp_path / "client_uniform_20/seed0" / ATTEMPTS, "attempts")["attempts"]
    ] == [1, 0]


def test_a_job_that_keeps_failing_is_reported_with_its_last_line(tmp_path: Path) -> None:
    outcome = run([job(tmp_path, f"echo x >> {tmp_path}/log; echo out of memory; exit 3")], retries=2)
    assert outcome.failed == {"client_uniform_20/seed0": "out of memory"}
    assert (tmp_path / "log").read_text().split() == ["x"] * 3
    assert not outcome.done


def test_a_users_mistake_is_not_tried_again(tmp_path: Path) -> None:
    outcome = run([job(tmp_path, f"echo x >> {tmp_path}/log; echo 'error: no such dataset.' >&2; exit 2")])
    assert outcome.failed == {"client_uniform_20/seed0": "error: no such dataset."}
    assert (tmp_path / "log").read_text() == "x\n"


def test_a_killed_job_is_tried_again(tmp_path: Path) -> None:
    outcome = run([job(tmp_path, f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; kill -9 $$; }}")])
    assert outcome.done == ["client_uniform_20/seed0"]


def test_the_time_of_an_attempt_whose_runner_was_killed_counts_until_its_last_word(tmp_path: Path) -> None:
    one = job(tmp_path, "true")
    write_json(
        one.folder / ATTEMPTS, "attempts", "hash",
        {"attempts": [{"started": "2026-01-01T00:00:00+00:00", "seconds": None, "status": None}]},
    )  # fmt: skip
    (one.folder / "console.txt").write_text("half way\n")
    last = 1_767_225_600 + 90  # a minute and a half after the start
    os.utime(one.folder / "console.txt", (last, last))
    run([one])
    assert read_json(one.folder / CELL, "cell")["seconds"] == pytest.approx(90, abs=5)


@pytest.mark.parametrize(("key", "counts"), [("another", False), ("", True)])
def test_the_time_of_attempts_under_another_config_does_not_count(
    key: str, counts: bool, tmp_path: Path
) -> None:
    """Those of earlier versions, which kept no hash, do."""
    one = job(tmp_path, "true")
    earlier = [{"started": "2026-01-01T00:00:00+00:00", "seconds": 500.0, "status": 1}]
    write_json(one.folder / ATTEMPTS, "attempts", key, {"attempts": earlier})
    run([one])
    assert (read_json(one.folder / CELL, "cell")["seconds"] > 500) == counts


def test_a_cell_that_was_killed_says_by_what(tmp_path: Path) -> None:
    outcome = run([job(tmp_path, "echo half way; kill -9 $$")], retries=0)
    assert outcome.failed == {
        "client_uniform_20/seed0": "killed by signal 9 (out of memory?); last line: half way"
    }


def test_a_failed_cell_that_is_finished_elsewhere_before_it_is_tried_again_is_no_failure(
    tmp_path: Path,
) -> None:
    finish(job(tmp_path / "there", "true"), 1.0)
    here = job(tmp_path, f"cp {tmp_path}/there/client_uniform_20/seed0/{CELL} {tmp_path}/$PLACE; exit 1")
    outcome = run_jobs([here], [{"PLACE": f"client_uniform_20/seed0/{CELL}"}], finish)
    assert outcome == Outcome(done=["client_uniform_20/seed0"])


def test_what_is_wrong_with_one_cell_ends_no_other(tmp_path: Path) -> None:
    in_the_way = Cell(ROW, 0)
    (tmp_path / "file").touch()
    broken = Job(in_the_way, tmp_path / "file" / in_the_way.name, ("true",), "hash")
    spoilt = job(tmp_path, f"rm {tmp_path}/client_uniform_20/seed1/{ATTEMPTS}", 1)
    outcome = run([broken, spoilt, job(tmp_path, "true", 2)], retries=0)
    assert outcome.done == ["client_uniform_20/seed2"]
    assert "cannot be started: cannot write" in outcome.failed["client_uniform_20/seed0"]
    assert "client_uniform_20/seed1" in outcome.failed


def test_a_finished_cell_leaves_no_process_behind(tmp_path: Path) -> None:
    run([job(tmp_path, f"(sleep 0.5; touch {tmp_path}/late) & exit 0")])
    time.sleep(0.6)
    assert not (tmp_path / "late").exists()


def test_results_that_cannot_be_used_are_a_failure(tmp_path: Path) -> None:
    def refuse(done: Job, seconds: float) -> None:
        raise NDSError("results of another seed")

    outcome = run_jobs([job(tmp_path, "true")], [{}], refuse)
    assert outcome.failed == {
        "client_uniform_20/seed0": "its results cannot be used: results of another seed"
    }


def test_no_job_is_started_after_the_time_limit(tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"echo {seed} >> {tmp_path}/log; sleep 0.5", seed) for seed in range(3)]
    outcome = run(jobs, time_limit=0.3)
    assert (tmp_path / "log").read_text() == "0\n"
    assert outcome.done == ["client_uniform_20/seed0"]
    assert outcome.not_started == ["client_uniform_20/seed1", "client_uniform_20/seed2"]


def test_a_cell_that_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    claimed = job(tmp_path, f"touch {tmp_path}/ran")
    lock = try_lock(claimed.folder / NAME)
    assert lock is not None
    assert run([claimed]).elsewhere == ["client_uniform_20/seed0"]
    assert not (tmp_path / "ran").exists()
    lock.release()
    assert run([claimed]).done == ["client_uniform_20/seed0"]


def test_a_cell_that_is_finished_meanwhile_is_not_run(tmp_path: Path) -> None:
    claimed = job(tmp_path, f"touch {tmp_path}/ran")
    finish(claimed, 1.0)
    assert run([claimed]).done == ["client_uniform_20/seed0"]
    assert not (tmp_path / "ran").exists()
    assert not job(tmp_path, "true", config_hash="another").is_done


HERE = Path(__file__).parent
RUNNER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {support!r}]
from test_grid import finish, job
from nds_plugin.experiments.runner import run_jobs
folder = Path({folder!r})
script = "{first}echo start >> {folder}/log; sleep 1.5; echo end >> {folder}/log"
print(run_jobs([job(folder, script)], [{{}}], finish))
"""


def _runner(folder: Path, first: str = "") -> str:
    support = str(HERE.parent / "support")
    return RUNNER.format(tests=str(HERE), support=support, folder=str(folder), first=first)


def test_a_cell_whose_runner_was_killed_ends_alone_and_is_not_started_beside_it(tmp_path: Path) -> None:
    killed_when(_runner(tmp_path), (tmp_path / "log").exists)
    again = job(tmp_path, f"echo again >> {tmp_path}/log")
    assert run([again]).elsewhere == ["client_uniform_20/seed0"]
    deadline = time.monotonic() + 60
    while "end" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    assert run([again]).done == ["client_uniform_20/seed0"]
    assert (tmp_path / "log").read_text().split() == ["start", "end", "again"]
    attempts = read_json(again.folder / ATTEMPTS, "attempts")["attempts"]
    assert [attempt["status"] for attempt in attempts] == [None, 0]  # how the first one ended nobody saw


def test_a_runner_that_is_told_to_stop_ends_its_cells(tmp_path: Path) -> None:
    runner = started_until(_runner(tmp_path), (tmp_path / "log").exists)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=30) != 0
    assert run([job(tmp_path, "true")]).done == ["client_uniform_20/seed0"]
    time.sleep(1.6)
    assert (tmp_path / "log").read_text().split() == ["start"]


def test_a_runner_that_is_told_twice_kills_cells_that_do_not_end(tmp_path: Path) -> None:
    runner = started_until(_runner(tmp_path, "trap '' TERM; "), (tmp_path / "log").exists)
    runner.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(timeout=30) != 0
    time.sleep(1.6)
    assert (tmp_path / "log").read_text().split() == ["start"]


# -- locks ------------------------------------------------------------------------------------------


def _append_alone(folder: str) -> None:
    with folder_lock(folder):
        log = Path(folder) / "log"
        before = log.read_text() if log.exists() else ""
        time.sleep(0.2)
        log.write_text(before + "x")


def test_processes_in_one_folder_take_turns(tmp_path: Path) -> None:
    context = get_context("fork")
    workers = [context.Process(target=_append_alone, args=(str(tmp_path),)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "log").read_text() == "xxxx"


# -- the file of results ----------------------------------------------------------------------------


def document(selector: str = "uniform", seed: int = 0) -> dict[str, Any]:
    summary = {
        "AP_bb": 1.5,
        "AP50_bb": 3.0,
        "AP": 1.0,
        "AP50": 2.0,
        "per_category": {"car": 9.0},
        "per_category_bb": {},
    }
    return {"selector": selector, "seed": seed, "summary": summary}


def entry(seed: int, config_hash: str = "hash", ap: float = 1.5) -> dict[str, Any]:
    return {**record(Cell(ROW, seed), document(seed=seed), config_hash, 12.34), "AP_bb": ap}


def test_a_cell_has_exactly_the_fields_of_the_benchmark() -> None:
    assert list(entry(3)) == [
        "client", "selector", "budget", "seed", "AP_bb", "AP50_bb", "AP", "AP50", "per_category", "config_hash", "seconds",
    ]  # fmt: skip
    assert entry(3)["per_category"] == {"car": 9.0}


def test_results_of_another_seed_or_selector_are_refused() -> None:
    with pytest.raises(
        NDSError, match="expected results of uniform with seed 1, got those of uniform with seed 0"
    ):
        record(Cell(ROW, 1), document(seed=0), "hash", 1.0)
    with pytest.raises(NDSError, match="got those of nds"):
        record(Cell(ROW, 0), document("nds"), "hash", 1.0)


def test_a_cell_replaces_itself_and_no_other(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "benchmark.json")
    results.add(entry(1), {"images": 1})
    results.add(entry(0), {"images": 2})
    results.add(entry(1, ap=7.0), {"images": 3})
    results.add(entry(1, "older"), {"images": 4})
    read = results.read()
    assert [(e["seed"], e["config_hash"], e["AP_bb"]) for e in read["cells"]] == [
        (0, "hash", 1.5), (1, "hash", 7.0), (1, "older", 1.5),
    ]  # fmt: skip
    assert read["details"][key_of(entry(1))] == {"images": 3}
    current, others = of_configs(read["cells"], {ROW.identity: "hash"})
    assert [e["seed"] for e in current] == [0, 1]
    assert [e["config_hash"] for e in others] == ["older"]


def _add_some(path: str, seeds: range) -> None:
    for seed in seeds:
        ResultsFile(path).add(entry(seed), {})


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    context = get_context("fork")
    path = str(tmp_path / "benchmark.json")
    workers = [context.Process(target=_add_some, args=(path, range(n, n + 5))) for n in range(0, 20, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [e["seed"] for e in ResultsFile(path).read()["cells"]] == list(range(20))


def test_the_file_holds_a_cell_a_line(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    write_results_file(path, {"cells": [entry(0), entry(1)], "details": {"a": {}}})
    assert json.loads(path.read_text())["cells"] == [entry(0), entry(1)]
    assert sum('"client"' in line for line in path.read_text().splitlines()) == 2
    write_results_file(path, {"cells": [], "details": {}})
    assert ResultsFile(path).read() == {"cells": [], "details": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a complete JSON file"),
        ("[]", r'expected {"cells": \[...\]}'),
        ('{"cells": [{"client": "a"}]}', r"cells\[0\] lacks selector, budget"),
        ('{"cells": ["a"]}', r"cells\[0\] should hold keys and values, got 'a'"),
        ('{"cells": [], "details": [1]}', "expected details by the cells' names, got a list"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(content)
    with pytest.raises(NDSError, match=message):
        ResultsFile(path).read()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AP_bb": "high"}, r"cells\[1\] should have a number as AP_bb, got 'high'"),
        ({"seed": True}, r"cells\[1\] should have a number as seed, got True"),
        ({"per_category": None}, r"cells\[1\] should have AP by category in per_category, got None"),
        ({"per_category": {"car": []}}, r"cells\[1\] should have a number as car, got \[\]"),
    ],
)
def test_a_cell_changed_by_hand_into_none_is_named(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "benchmark.json"
    write_results_file(path, {"cells": [entry(0), {**entry(1), **changed}], "details": {}})
    with pytest.raises(NDSError, match=message):
        ResultsFile(path).read()


def test_an_ap_that_could_not_be_computed_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    write_results_file(path, {"cells": [{**entry(0), "AP": None}], "details": {}})
    assert ResultsFile(path).read()["cells"][0]["AP"] is None
