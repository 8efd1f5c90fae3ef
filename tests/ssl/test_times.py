"""What the results of the job say of the time of its trainings, in whatever start they ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from ssl_jobs import write_folders

from nds_plugin.experiments.results import classifier_details
from nds_plugin.files.artifacts import read_json, write_json
from nds_plugin.job.training_folder import FINISHED, KIND
from nds_plugin.ssl.config import load_config
from nds_plugin.ssl.main_job import MainJob


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_training_that_an_earlier_start_finished_has_its_time(tmp_path: Path, in_parts: bool) -> None:
    words = ["OUTPUT_DIR", str(tmp_path / "run"), "NDS.SELECTOR", "none", "FINETUNE.ITERATIONS", "1"]
    job = load_config(str(write_folders(tmp_path / "data")), words)
    assert MainJob(job).run()["trained_in_parts"] == []
    path = tmp_path / "run/finetune" / FINISHED
    told = read_json(path, KIND)
    kept = {"iterations": 1, "resumed_from": None, "seconds": 5.0, "in_parts": in_parts}
    write_json(path, KIND, told["key"], kept)
    (tmp_path / "run/results.json").unlink()
    document = MainJob(job).run()
    assert document["times"]["finetune"] == 5.0
    assert document["trained_in_parts"] == ["finetune"] * in_parts
    assert classifier_details(document)["times"]["finetune"] == (None if in_parts else 5.0)
