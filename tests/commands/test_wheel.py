"""The package as a user has it: a wheel in an environment of its own, far from any checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("nds_plugin", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
# The sample's config on pictures of 96 x 72, one iteration of each training.
SMALL = [
    *("DATASETS.TRAIN", "('nds_data_city_train',)", "DATASETS.TEST", "('nds_data_city_val',)"),
    *("NDS.SOURCE.DATASETS", "('nds_data_street_train', 'nds_data_room_train')"),
    *("NDS.PARTITION.NUM_CLUSTERS", "2", "NDS.EXPERTS.STEPS", "1", "NDS.EXPERTS.SHARED_STEPS", "1"),
    *("NDS.EXPERTS.KIND", "network", "NDS.EXPERTS.BATCH_SIZE", "2", "NDS.EXPERTS.CROP_SIZE", "32"),
    *("NDS.BUDGET.SHARE", "0.5"),
    *("NDS.TARGET.NUM_IMAGES", "6", "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TEST", "72"),
    *("NDS.PRETRAIN.SOLVER.MAX_ITER", "1", "NDS.PRETRAIN.SOLVER.STEPS", "()"),
    *("NDS.PRETRAIN.SOLVER.IMS_PER_BATCH", "1", "SOLVER.IMS_PER_BATCH", "1"),
    *("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "OUTPUT_DIR", "out", "NDS.WORK_DIR", "out/nds"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel, which sees what the package needs but no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build would leave its own files in the checkout
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--isolated", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, env=_environment())
    shutil.rmtree(source)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=_environment())
    # Only now: pip would take a package that is installed over there for one to be replaced.
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "needs.pth").write_text("\n".join(site.getsitepackages()))
    return python.parent


def _environment() -> dict[str, str]:
    ours = ("PYTHONPATH", "DETECTRON2_DATASETS", "NDS_DATA")
    return {name: value for name, value in os.environ.items() if name not in ours} | {"OMP_NUM_THREADS": "1"}


def _run(folder: Path, *command: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**_environment(), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_samples_config_is_run_by_its_bare_name_from_an_empty_folder(
    environment: Path, tiny_datasets: Path, tmp_path: Path
) -> None:
    where = "import nds_plugin, sys; print(nds_plugin.__file__); print(*sys.path)"
    found = _run(tmp_path, environment / "python", "-c", where)
    assert found.startswith(str(environment.parent))
    assert str(ROOT) not in found.split()
    shutil.copytree(tiny_datasets, tmp_path / "data" / "detection")
    train = [environment / "nds", "train", "--config", "nds_sample.yaml", *SMALL]
    _run(tmp_path, *train, NDS_DATA=str(tmp_path / "data"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["selection"]["images"] == 24
    (index,) = (tmp_path / "out/nds").glob("index-*.parquet")
    (partition,) = (tmp_path / "out/nds").glob("partition-*.parquet")
    draw = [environment / "nds", "draw", "--index", index, "--partition", partition]
    said = _run(tmp_path, *draw, "--selector", "uniform", "--images", "16", "--output", "drawn.parquet")
    assert "16 images in drawn.parquet" in said


@pytest.mark.slow
def test_the_server_and_the_client_are_commands_of_their_own(environment: Path, tmp_path: Path) -> None:
    assert _run(tmp_path, environment / "nds-serve", "--help").startswith("usage: nds-serve ")
    assert _run(tmp_path, environment / "nds-client", "--help").startswith("usage: nds-client ")
