"""What the tests share: one thread, no GPU surprises, and the folder of real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nds_data() -> Path:
    """The folder of real annotated photographs, from the environment variable NDS_DATA."""
    root = os.getenv("NDS_DATA", "")
    if not root or not Path(root, "detection").is_dir():
        pytest.skip("set NDS_DATA to a folder of real annotated photographs (docs/development.md)")
    return Path(root)
