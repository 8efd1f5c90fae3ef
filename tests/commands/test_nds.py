"""The command ``nds``: its verbs, its mistakes in one line, and what it needs installed."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from as_user import ROOT, only_line

from nds_plugin import __version__, extras
from nds_plugin.commands.nds import VERBS
from nds_plugin.d2 import load_config
from nds_plugin.errors import MissingPackageError

TORCH = ("torch", "torchvision", "sklearn")
DETECTRON2 = ("detectron2", "fvcore", "iopath", "yacs", "omegaconf")
SERVER = ("fastapi", "starlette", "pydantic", "uvicorn", "sqlalchemy", "anyio", "psycopg")
CLIENT = ("httpx",)
OPTIONAL = (*TORCH, *DETECTRON2, *SERVER, *CLIENT, "timm", "shapely", "cityscapesscripts")


def nds(
    *arguments: str | Path, without: tuple[str, ...] = (), then: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run nds with packages that cannot be imported; ``then`` is run where it succeeds."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({without})); sys.argv[0] = 'nds'\n"
        f"from nds_plugin.commands.nds import main\nmain()\n{then}"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_help_lists_every_verb_with_what_it_does_and_imports_none() -> None:
    heavy = "print('imported', {'torch', 'detectron2', 'fastapi', 'httpx'} & set(sys.modules))"
    done = nds("--help", then=heavy)
    assert done.returncode == 0, done.stderr
    assert "imported set()" in done.stdout
    told = {line[2:14].strip(): line[14:] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert tuple(told) == VERBS
    assert all(len(summary) > 20 for summary in told.values())
    assert nds().stdout == nds("--help").stdout


def test_every_module_of_a_verb_is_in_the_list_and_every_script_starts_one() -> None:
    folder = ROOT / "nds_plugin" / "commands"
    shared = {"__init__", "nds", "hosts", "select_only", "selector_options"}
    modules = {path.stem for path in folder.glob("*.py")} - shared
    assert modules == {verb.replace(" ", "_").replace("-", "_") for verb in VERBS}
    started = set()
    for script in (ROOT / "tools").glob("*.py"):
        calls = [n for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.Call)]
        started |= {ast.literal_eval(n.args[0]) for n in calls if getattr(n.func, "id", "") == "command"}
        assert f"python tools/{script.name}" in script.read_text(), f"{script}: no example in its docstring"
    assert started == set(VERBS)


def test_an_unknown_verb_is_told_the_nearest_one_in_one_line() -> None:
    done = nds("trian")
    assert done.returncode == 2
    assert "unknown verb 'trian'. Did you mean 'train'" in only_line(done.stderr)
    assert done.stderr.rstrip().endswith("[command-line]")
    assert "Known: gate train, gate score; " in only_line(nds("gate", "trian").stderr)


def test_a_verb_of_two_words_lists_what_may_follow_its_first() -> None:
    for arguments in (["gate"], ["gate", "--help"]):
        done = nds(*arguments)
        assert done.returncode == 0, done.stderr
        verbs = {line[2:14].strip() for line in done.stdout.splitlines() if line.startswith("  ")}
        assert verbs == {"gate train", "gate score"}


def test_the_version_is_told() -> None:
    assert nds("--version").stdout == f"nds_plugin {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_its_options_without_any_extra(verb: str) -> None:
    done = nds(*verb.split(), "--help", without=OPTIONAL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: nds {verb} ")
    assert "``" not in done.stdout, "marks of a docstring"


def test_the_config_of_a_row_is_printed_without_any_extra() -> None:
    done = nds("tables", "--table", "4", "--show", "nds_23k", without=OPTIONAL)
    assert done.returncode == 0, done.stderr
    assert "SELECTOR: nds" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["draw", "--indx", "a"], "--indx. Did you mean '--index'?; the following arguments are required: --index"),
        (["draw", "--index", "a", "--indx", "b", "--output", "c"], "--indx b. Did you mean '--index'? nds draw --help"),
        (["train", "--cofig", "a"], "--cofig. Did you mean '--config' or '--config-file'? nds train --help"),
        (["serve", "run", "--store", "a", "--prt", "3"], "--prt 3. Did you mean '--port'? nds serve run --help"),
    ],
)  # fmt: skip
def test_a_mistyped_option_is_told_even_where_another_is_missing(arguments: list[str], message: str) -> None:
    done = nds(*arguments, without=OPTIONAL)
    assert done.returncode == 2
    assert f"command line: unrecognized arguments: {message}" in only_line(done.stderr)


@pytest.mark.parametrize("verb", ["draw", "gate train", "serve", "client"])
def test_the_help_of_a_verb_names_it_as_it_was_started(verb: str) -> None:
    done = nds(*verb.split(), "--help", without=DETECTRON2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: nds {verb} ")


def test_the_help_of_a_script_names_the_script() -> None:
    command = [sys.executable, "tools/draw_subset.py", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert said.startswith("usage: python tools/draw_subset.py ")
    assert "    python tools/draw_subset.py --index index.parquet" in said


@pytest.mark.parametrize(
    ("verb", "package", "extra"),
    [
        (["train", "--config", "nds_sample.yaml"], "detectron2", "git+https"),
        (["partition", "--folder", ".", "--output", "/nowhere"], "torch", "[experts]'"),
        (["serve", "run", "--store", "/nowhere"], "uvicorn", "[server]'"),
        (["client", "sources"], "httpx", "[client]'"),
        (["export", "--experts", "/nowhere"], "torch", "[experts]'"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(
    verb: list[str], package: str, extra: str
) -> None:
    done = nds(*verb, without=(package,))
    assert done.returncode == 2, done.stderr
    line = only_line(done.stderr)
    assert f"needs the package {package}, which is not installed: python -m pip install " in line
    assert extra in line
    assert done.stderr.rstrip().endswith(" [missing-package]")


def test_the_core_draws_and_looks_for_datasets_without_any_extra(tmp_path: Path) -> None:
    from nds_plugin.datasets.sample.generate import generate
    from nds_plugin.source.folder import index_folder

    generate(tmp_path / "sample", train_images=4, val_images=1, size=(96, 72), domains=["room"])
    index_folder(tmp_path / "sample/room/images").save(tmp_path / "index.parquet", "key")
    arguments = ["--index", tmp_path / "index.parquet", "--selector", "uniform", "--images", "2"]
    done = nds("draw", *arguments, "--output", tmp_path / "drawn.parquet", without=OPTIONAL)
    assert done.returncode == 0, done.stderr
    assert "2 images in" in done.stdout
    assert "cluster" not in done.stdout, "a uniform draw has no clusters and no scores"
    assert "client's cost" not in done.stdout
    assert nds("datasets", "--check", "--root", tmp_path, without=OPTIONAL).returncode == 0


def test_a_draw_has_a_name_without_any_extra_if_its_source_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from provider_files import write_coco_2017

    from nds_plugin.pipeline.files_host import FilesHost

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_coco_2017(tmp_path)
    arguments = [
        "--index",
        tmp_path / "index.parquet",
        "--selector",
        "uniform",
        "--images",
        "2",
        "--name",
        "mine",
    ]
    for name in ("nds_coco_2017_train", "coco_2017_train"):
        FilesHost().dataset(name).index().save(tmp_path / "index.parquet", "key")
        done = nds("draw", *arguments, without=OPTIONAL)
        assert done.returncode == 0, done.stderr
        assert "Registered dataset: nds_mine, MODEL.ROI_HEADS.NUM_CLASSES 80" in done.stdout
    assert (tmp_path / "nds_selections/mine.parquet").is_file()


@pytest.mark.slow
def test_the_names_of_all_datasets_are_listed_with_and_without_detectron2() -> None:
    paper = nds("datasets", "--list", without=OPTIONAL).stdout.splitlines()
    assert "nds_coco_2017_train" in paper
    assert "coco_2014_train" not in paper
    assert set(paper) | {"coco_2014_train"} <= set(nds("datasets", "--list").stdout.splitlines())


@pytest.mark.parametrize("verb", ["partition", "experts"])
def test_the_help_of_the_source_names_the_steps_of_the_configs_for_gpus(verb: str) -> None:
    experts = load_config("nds_cityscapes.yaml").NDS.EXPERTS
    told = " ".join(nds(verb, "--help").stdout.split())
    batch = "--shared-batch" if verb == "partition" else "--batch-size"
    assert f"--shared-steps {experts.SHARED_STEPS} {batch} {experts.BATCH_SIZE}" in told
    assert verb == "partition" or f"--steps {experts.STEPS} " in told


def test_the_server_needs_neither_torch_nor_detectron2(tmp_path: Path) -> None:
    without = (*TORCH, *DETECTRON2, *CLIENT)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({without}))\n"
        "import nds_plugin.service.server.app, nds_plugin.service.published.publishing"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert "nothing is published" in only_line(
        nds("serve", "sets", "--store", tmp_path, without=without).stderr
    )


def test_the_client_looks_and_downloads_without_torch_and_without_detectron2(tmp_path: Path) -> None:
    done = nds("client", "download", "--manifest", tmp_path / "none.csv", "--output", tmp_path / "o",
               without=(*TORCH, *DETECTRON2, *SERVER))  # fmt: skip
    assert "none.csv" in only_line(done.stderr)
    assert "missing-package" not in done.stderr


def test_a_module_that_no_extra_brings_is_a_defect_and_not_told_as_a_missing_package() -> None:
    assert extras.missing(ModuleNotFoundError("No module named 'os.x'", name="os.x")) is None
    with pytest.raises(ModuleNotFoundError, match="no_such"), extras.needed_for("this"):
        importlib.import_module("no_such_module")
    with (
        pytest.raises(MissingPackageError, match="scoring needs the package timm"),
        extras.needed_for("scoring"),
    ):
        raise ModuleNotFoundError(name="timm.models")


def test_every_extra_that_a_line_names_is_one_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or later reads pyproject.toml itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {c.rpartition("[")[2].split("]")[0] for c in extras._COMMANDS.values() if "]'" in c}
    assert named >= {"experts", "server", "client", "detectron2", "cityscapes"}
    assert named <= set(project["optional-dependencies"])
    assert not [d for d in project["dependencies"] if d.startswith(("torch", "scikit-learn", "fvcore"))]
    assert not [r for rows in project["optional-dependencies"].values() for r in rows if "torch==" in r]
