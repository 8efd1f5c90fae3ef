"""The configs that are installed, and what a config means."""

from __future__ import annotations

from pathlib import Path

import pytest

from nds_plugin.ssl.config import CONFIGS, load_config

INSTALLED = sorted(str(path.relative_to(CONFIGS.folder)) for path in CONFIGS.folder.rglob("*.yaml"))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_config_that_is_installed_can_be_read(name: str) -> None:
    assert load_config(name, ["PRETRAIN.METHOD", "rotnet"]).pretrain.method == "rotnet"


@pytest.mark.parametrize("name", [name for name in INSTALLED if name.startswith("nds_")])
def test_a_job_of_ones_own_writes_below_its_output_folder(name: str, tmp_path: Path) -> None:
    assert load_config(name, ["OUTPUT_DIR", str(tmp_path)]).artefacts == tmp_path / "nds"
