"""``tools/reproduce_tables.py`` as a user starts it: real cells on tiny data, again, and into a page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from as_user import User
from generated_pages import generated_part
from provider_files import write_photographs
from two_iterations import SMALL

from nds_plugin.commands.tables import main as tables_main
from nds_plugin.errors import NDSError
from nds_plugin.experiments.benchmark_page import BEGIN, END, write_page
from nds_plugin.experiments.detector_rows import DetectorRows
from nds_plugin.experiments.reproduce import Reproduction, remove_intermediate_checkpoints, slots_of
from nds_plugin.experiments.results import ResultsFile, fields
from nds_plugin.experiments.spec import GRIDS, find_row

ROOT = Path(__file__).parents[2]
OVERRIDES = [*SMALL, "NDS.TARGET.NUM_IMAGES", "4", "SOLVER.CHECKPOINT_PERIOD", "1"]
ROWS = ("none", "uniform", "nds", "oracle")
PATTERNS = ["cityscapes_none", *(f"cityscapes_{selector}_20" for selector in ROWS[1:])]
CELLS = [*(word for pattern in PATTERNS for word in ("--only", pattern)), "--seeds", "0"]


def _start(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NDS_DATA": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    tool = [sys.executable, "-W", "ignore", str(ROOT / "tools/reproduce_tables.py"), "--table", "mini"]
    own = ["--output", str(root / "out"), "--results", str(root / "cells.json")]
    return subprocess.run(
        [*tool, *own, *arguments], env=environment, capture_output=True, text=True, timeout=590, cwd=root
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tool has run one seed of the 20 % rows, two at a time."""
    root = tmp_path_factory.mktemp("grid")
    sources = DetectorRows().row_config(GRIDS["mini"].rows[0]).NDS.SOURCE.DATASETS
    write_photographs(root, [name.removeprefix("nds_data_").removesuffix("_train") for name in sources])
    (root / "page.md").write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    done = _start(root, *CELLS, "--jobs", "2", "--page", str(root / "page.md"), *OVERRIDES)
    (root / "log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


@pytest.mark.slow
def test_every_cell_is_in_the_file_with_exactly_its_fields(finished: Path) -> None:
    document = json.loads((finished / "cells.json").read_text())
    assert sorted(cell["selector"] for cell in document["cells"]) == sorted(ROWS)
    for cell in document["cells"]:
        assert tuple(cell) == fields()
        assert cell["seconds"] > 0
    details = document["details"].values()
    assert sum(detail["before_finetuning"] is not None for detail in details) == len(ROWS) - 1
    assert all(detail["images"] for detail in details if detail["drawn"])
    for detail in details:  # what the command line changed, and nothing else
        assert detail["changed"]["NDS.TARGET.NUM_IMAGES"] == 4
        assert set(detail["changed"]) <= set(OVERRIDES[::2])


@pytest.mark.slow
def test_the_tables_and_curves_are_written_and_the_table_printed(finished: Path) -> None:
    names = {path.name for path in (finished / "out").iterdir() if path.is_file()}
    for client in ("cityscapes", "ccp_modanet13"):
        assert {f"table_{client}.{suffix}" for suffix in ("txt", "tsv", "md", "tex", "csv", "json")} <= names
    assert {"curve_cityscapes_AP_bb.png", "curve_cityscapes_AP.png"} <= names
    assert (finished / "out/table_cityscapes.txt").read_text() in (finished / "log").read_text()


@pytest.mark.slow
def test_the_page_is_made_from_the_file_and_what_is_written_by_hand_stays(finished: Path) -> None:
    page = (finished / "page.md").read_text()
    assert page.startswith("# Mine\n")
    assert page.endswith("The end.\n")
    assert "Noise and room" in page
    assert "old" not in page
    linked = re.findall(r"\]\(([^)]*\.svg)\)", page)
    assert linked == ["page_cityscapes.svg"]
    assert (finished / linked[0]).read_text().startswith("<?xml")
    again = _reproduction(finished)
    assert generated_part(finished / "page.md") == again.page(again.tables(), "page")


def _reproduction(root: Path) -> Reproduction:
    seeds = [0]
    return Reproduction(GRIDS["mini"], root / "out", root / "cells.json", seeds=seeds, overrides=OVERRIDES)


@pytest.mark.slow
def test_a_finished_cell_keeps_one_checkpoint_a_stage(finished: Path) -> None:
    left = {p.relative_to(finished / "out").as_posix() for p in (finished / "out").rglob("model_*.pth")}
    assert "cityscapes_nds_20/seed0/finetune/model_final.pth" in left
    assert {Path(name).name for name in left if "/seed0/" in name} == {"model_final.pth"}


@pytest.mark.slow
def test_nothing_is_computed_twice(finished: Path) -> None:
    done = _start(finished, *CELLS, *OVERRIDES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "0 cells finished now, 0 failed" in done.stdout + done.stderr


@pytest.mark.slow
def test_cells_that_only_the_file_holds_are_finished_too(finished: Path, tmp_path: Path) -> None:
    elsewhere = Reproduction(
        GRIDS["mini"],
        tmp_path,
        finished / "cells.json",
        seeds=[0],
        only=PATTERNS,
        overrides=OVERRIDES,
    )
    assert elsewhere.jobs() == []
    assert "4 finished" in elsewhere.plan()


@pytest.mark.slow
def test_cells_of_another_config_are_run_again_and_the_earlier_ones_kept_apart(finished: Path) -> None:
    other = Reproduction(
        GRIDS["mini"], finished / "other", finished / "cells.json", seeds=[0], only=["cityscapes_none"],
        overrides=[*OVERRIDES, "SOLVER.MAX_ITER", "3"],
    )  # fmt: skip
    assert [job.cell.name for job in other.jobs()] == ["cityscapes_none/seed0"]
    tables = other.tables()
    assert tables["cityscapes"].missing == len(tables["cityscapes"].rows)
    assert "Cells of other configs" in other.page(tables)


@pytest.mark.slow
def test_a_failed_cell_is_told_in_one_line_and_in_the_table(finished: Path) -> None:
    """An image of the client is gone, which only the cell itself notices."""
    image = finished / "detection/ccp/images/000000000002.jpg"
    image.rename(image.with_name("away"))
    try:
        done = _start(finished, "--only", "ccp_modanet13_none", "--seeds", "0", *OVERRIDES)
    finally:
        image.with_name("away").rename(image)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"error: 1 cells failed .* ccp_modanet13_none/seed0: error: dataset .* image files are missing", last
    )
    assert "No pretraining 0 seed 0 (failed)" in done.stdout


@pytest.mark.slow
def test_the_dry_run_of_the_papers_tables_shows_hours_and_disk(tmp_path: Path) -> None:
    plan = Reproduction(GRIDS["4"], tmp_path, tmp_path / "cells.json").plan()
    assert "24 cells to run, 0 finished." in plan
    assert re.search(r"Time: [\d.]+ GPU h of runs \+ [\d.]+ GPU h of experts", plan)
    assert "44.3 M parameters x 2 numbers x 4 bytes = 0.355 GB" in plan
    # 17,500 iterations of 16 images, 0.261 s x 8 / 16 each
    assert "280,000 images x 0.1305 / 3600 = 10.15 GPU h" in plan
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["4", "5"])
def test_the_plans_in_the_docs_are_those_of_the_dry_run(name: str, tmp_path: Path) -> None:
    plan = Reproduction(GRIDS[name], tmp_path, tmp_path / "cells.json").plan()
    assert f"```\n{plan}```" in (ROOT / "docs/benchmark.md").read_text()


def test_places_have_gpus_or_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots_of(2, 2, 4) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert slots_of(2, 1, 2) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3,")
    assert slots_of(2, 1, 2) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,9")
    with pytest.raises(NDSError, match="CUDA_VISIBLE_DEVICES is '2,9', but torch sees 1 GPUs"):
        slots_of(1, 1, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert slots_of(2, 1, 0) == [{"OMP_NUM_THREADS": "1"}] * 2
    with pytest.raises(NDSError, match=r"--jobs 3 x --num-gpus 2 needs 6 GPUs, torch sees 4"):
        slots_of(3, 2, 4)
    with pytest.raises(NDSError, match="--jobs must be 1 or more"):
        slots_of(0, 1, 0)


def test_intermediate_checkpoints_go_and_final_ones_stay(tmp_path: Path) -> None:
    for name in ("pretrain/model_0000199.pth", "pretrain/model_final.pth", "finetune/model_0000099.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_intermediate_checkpoints(tmp_path)
    assert [p.name for p in tmp_path.rglob("*.pth")] == ["model_final.pth"]


def test_mistakes_of_the_command_line_are_one_line(user: User, tmp_path: Path) -> None:
    table = ["--output", tmp_path, "--results", tmp_path / "cells.json"]
    assert "unknown table '7'" in user.fails("reproduce_tables", "--table", "7", *table)
    assert "expected numbers such as 0-2" in user.fails(
        "reproduce_tables", "--table", "4", "--seeds", "x", *table
    )
    assert "unknown row of table 4" in user.fails(
        "reproduce_tables", "--table", "4", "--only", "nds_1", *table
    )
    told = user.fails(
        "reproduce_tables", "--table", "mini", "--only", "cityscapes_none", *table, "SOLVER.MAX_ITERS", "2"
    )
    assert "SOLVER.MAX_ITERS" in told
    assert "--num-gpus must be 1 or more" in user.fails(
        "reproduce_tables", "--table", "4", "--num-gpus", "0", "--dry-run", *table
    )
    (tmp_path / "cells.json").write_text("{")
    assert "not a complete JSON file" in user.fails("reproduce_tables", "--table", "4", "--collect", *table)


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("SEED", "--seeds"),
        ("OUTPUT_DIR", "--output"),
        ("NDS.SELECTOR", "--only"),
        ("NDS.BUDGET.SHARE", "--only"),
        ("DATASETS.TRAIN", "--only"),
        ("NDS.TARGET.NUM_IMAGES", "--only"),
        ("NDS.EXPERTS.SEED", "--seeds"),
    ],
)
def test_what_tells_cells_apart_cannot_be_overridden(tmp_path: Path, key: str, option: str) -> None:
    with pytest.raises(NDSError, match=f"{key} cannot be overridden.* use {option}"):
        Reproduction(GRIDS["mini_imagenet"], tmp_path, tmp_path / "cells.json", overrides=[key, "1"])


def test_what_no_chosen_row_is_named_by_may_be_overridden(tmp_path: Path) -> None:
    row = find_row("cityscapes_uniform_20", "mini")
    grid = replace(GRIDS["mini"], rows=(row,))
    Reproduction(grid, tmp_path, tmp_path / "cells.json", overrides=["NDS.TARGET.NUM_IMAGES", "4"])
    short = [
        "NDS.PRETRAIN.SOLVER.MAX_ITER",
        "100",
        "NDS.PRETRAIN.SOLVER.STEPS",
        "()",
    ]  # rows of table 4 have their own
    Reproduction(GRIDS["4"], tmp_path, tmp_path / "cells.json", overrides=short)


def test_results_that_cannot_be_kept_are_refused_before_the_first_cell(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reproduction = Reproduction(GRIDS["4"], tmp_path / "out", tmp_path / "file/cells.json")
    with pytest.raises(NDSError, match="cannot write .*file: a file is where a folder should be"):
        reproduction.check()


def test_the_cells_of_the_docs_are_nobodys_own_unless_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["--table", "mini", "--only", "cityscapes_uniform_20", "--output", str(tmp_path), "--dry-run"]
    tables_main(plan)
    assert "3 cells to run, 0 finished." in capsys.readouterr().out
    tables_main([*plan, "--results", str(ROOT / "docs/benchmark.json")])
    assert "0 cells to run, 3 finished." in capsys.readouterr().out


def test_nothing_is_collected_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["--table", "mini", "--collect", "--output", str(tmp_path), "--results", "nothing.json"]
    with pytest.raises(NDSError, match=r"--results nothing\.json: no such file"):
        tables_main(arguments)


def test_no_plan_is_made_for_no_places(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match="--jobs must be 1 or more, got 0"):
        Reproduction(GRIDS["mini"], tmp_path, tmp_path / "cells.json").plan(jobs=0)


def test_a_page_without_its_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Mine\n")
    with pytest.raises(NDSError, match="expected the lines"):
        write_page(tmp_path / "page.md", "x")
    assert (tmp_path / "page.md").read_text() == "# Mine\n"


def test_a_failed_cell_is_failed_for_its_own_client_alone(tmp_path: Path) -> None:
    reproduction = Reproduction(GRIDS["mini"], tmp_path, tmp_path / "cells.json")
    tables = reproduction.tables({"cityscapes_nds_20/seed0": "out of memory"})
    failed = {
        client: [(row.selector, row.budget) for row in table.rows if row.status["0"] == "failed"]
        for client, table in tables.items()
    }
    assert failed == {"cityscapes": [("nds", 0.2)], "ccp_modanet13": []}


def test_a_page_is_made_without_the_details_of_a_cell(tmp_path: Path) -> None:
    document = json.loads((ROOT / "docs/benchmark.json").read_text())
    gone = [key for key in document["details"] if key.startswith("cityscapes/uniform/0.2/0/")]
    del document["details"][gone[0]]
    (tmp_path / "cells.json").write_text(json.dumps(document))
    reproduction = Reproduction(GRIDS["mini"], tmp_path, tmp_path / "cells.json")
    assert "What is drawn" in reproduction.page(reproduction.tables())


def test_a_page_that_cannot_be_written_is_refused_before_the_first_cell(user: User, tmp_path: Path) -> None:
    arguments = ["--table", "4", "--output", tmp_path, "--page", tmp_path / "page.md"]
    assert "page.md: no such page; write one that holds the lines" in user.fails(
        "reproduce_tables", *arguments
    )
    (tmp_path / "page.md").write_text("# Mine\n")
    assert "page.md: expected the lines" in user.fails("reproduce_tables", *arguments)


@pytest.mark.parametrize(("table", "stem"), [("mini", "benchmark"), ("mini_imagenet", "benchmark_imagenet")])
def test_the_pages_of_the_benchmarks_are_made_from_their_results(
    table: str, stem: str, tmp_path: Path
) -> None:
    results = ROOT / f"docs/{stem}.json"
    for entry in ResultsFile(results).read()["cells"]:
        assert tuple(entry) == fields()
    benchmark = Reproduction(GRIDS[table], tmp_path, results)
    page = ROOT / f"docs/{stem}.md"
    assert generated_part(page) == benchmark.page(benchmark.tables(), stem)
    for name in re.findall(r"\]\(([^)]*\.svg)\)", page.read_text()):
        assert (ROOT / "docs" / name).is_file()
