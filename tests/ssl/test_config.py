"""The configs that are installed, and what a config means."""

from __future__ import annotations

from pathlib import Path

import pytest

from nds_plugin.errors import NDSError
from nds_plugin.ssl.config import CONFIGS, load_config
from nds_plugin.ssl.pretrain import check_pretraining

INSTALLED = sorted(str(path.relative_to(CONFIGS.folder)) for path in CONFIGS.folder.rglob("*.yaml"))


def test_configs_are_installed() -> None:
    assert {"nds_mini.yaml", "nds_moco_pets.yaml", "nds_rotnet_pets.yaml"} <= set(INSTALLED)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_config_that_is_installed_can_be_trained_on_8_processes(name: str) -> None:
    job = load_config(name)
    job.settings()
    if job.pretrains:
        check_pretraining(job.pretrain, 8)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NDS: 5", "NDS holds keys of its own, got the value 5"),
        ("NDS: PRESET", "NDS holds keys of its own, got the value 'PRESET'"),
        ("NDS: {PRESET: [paper]}", "NDS.PRESET must be text, got ['paper']"),
        (
            "FOLDERS: {2017: {FOLDER: x}}",
            "FOLDERS: the name of a dataset must be text, got 2017: write it in quotes.",
        ),
        ("FOLDERS: {birds: {2017: x, FOLDER: x}}", "FOLDERS.birds: unknown key 2017."),
    ],
)
def test_a_mistake_in_the_types_of_a_file_is_told_in_a_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(NDSError) as caught:
        load_config(str(tmp_path / "own.yaml"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name.startswith("nds_")])
def test_a_job_of_ones_own_writes_below_its_output_folder(name: str, tmp_path: Path) -> None:
    assert load_config(name, ["OUTPUT_DIR", str(tmp_path)]).artefacts == tmp_path / "nds"
