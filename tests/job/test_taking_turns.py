"""Jobs in one folder of results: the second one is refused, whichever host runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nds_plugin.engine.processes import OneProcess
from nds_plugin.errors import NDSError
from nds_plugin.job import taking_turns
from nds_plugin.job.taking_turns import only_job_in


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_turns, "PATIENCE", 0.3)


def test_a_folder_is_free_again_after_a_job_and_after_one_that_failed(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), only_job_in(tmp_path, OneProcess()):
            raise KeyError
    with only_job_in(tmp_path, OneProcess()):
        pass


def test_a_second_job_of_detectron2_is_refused(tiny_datasets: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from nds_plugin.d2 import load_config
    from nds_plugin.d2.job.main_job import run

    tiny = ["DATASETS.TRAIN", "('tiny_city_train',)", "DATASETS.TEST", "('tiny_city_val',)"]
    cfg = load_config("nds_sample.yaml", [*tiny, "NDS.SELECTOR", "none", "OUTPUT_DIR", str(tmp_path)])
    with only_job_in(tmp_path, OneProcess()), pytest.raises(NDSError, match="another job runs in the output"):
        run(cfg)
